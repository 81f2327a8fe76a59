"""The study files that `foretrain init VERB` prints."""

_TASK_LAW = """\
[task]                          # what is learned
kind = "power-law"              # or "spectrum", "isotropic", "digits", "fashion-mnist", "arrays"
capacity = 1.5                  # eigenvalues of the kernel fall like k^-capacity
source = 0.6                    # the larger, the easier the target
modes = 2000                    # theory also takes inf
noise = 0.01                    # variance of the label noise
"""

_TASK_DIGITS = """\
[task]                          # what is learned: 8 x 8 handwritten digits, in scikit-learn
kind = "digits"                 # or "fashion-mnist", or "arrays" with path = "mine.npz" (inputs, targets)
classes = [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9]]    # two groups become one output, +1 and -1
"""

_MODEL_LAW = """\
[model]                         # what learns it
kind = "random-features"        # a trained readout on frozen random features
width = [16, 64, {last}]        # a list is swept over{infinite}
"""

_TRAINING = """\
[training]                      # how it is trained
protocol = "gradient-flow"      # or "gradient-descent", "momentum", "momentum-flow", "sgd", "one-pass-sgd", "ridge"
samples = [32, 128, {last}]     # training samples; also swept over{infinite}
times = {{start = 1.0, stop = 1e4, points = 25, spacing = "log"}}    # or a list; for gradient flow, learning rate x steps
"""

_SEEDS = """\
seeds = 10                      # finite networks that every measured mean is taken over
seed = 0                        # where their random numbers start
"""

_INFINITE = "; inf is the limit"


def _law(title: str, *, infinite: bool, seeds: bool) -> str:
    last, words = ("inf", _INFINITE) if infinite else ("256", "")
    text = f'schema = 1\ntitle = "{title}"\n\n{_TASK_LAW}\n'
    text += _MODEL_LAW.format(last=last, infinite=words) + "\n" + _TRAINING.format(last=last, infinite=words)
    return text + (_SEEDS if seeds else "")


TEMPLATES = {
    "measure": f"""\
schema = 1
title = "How a ReLU network sees handwritten digits"

{_TASK_DIGITS}
[model]                         # the network whose kernel is measured
kind = "random-features"
width = inf
activation = "relu"             # or "leaky-relu", "erf", "gelu", "tanh", "linear"
depth = 1                       # hidden layers

[training]
protocol = "gradient-flow"
""",
    "solve": _law("Predicted learning curves of random features on a power law", infinite=True, seeds=False),
    "train": _law("Measured learning curves of random features on a power law", infinite=False, seeds=True),
    "compare": f"""\
schema = 1
title = "Digits, predicted and measured"

{_TASK_DIGITS}
[model]                         # what learns it
kind = "random-features"        # a trained readout on frozen random features
width = [64, 256]               # a list is swept over
activation = "relu"
depth = 1

[training]                      # how it is trained
protocol = "gradient-flow"      # or "gradient-descent", "momentum", "momentum-flow", "sgd", "one-pass-sgd", "ridge"
samples = [128, 512]            # rows drawn for training; the rest is for testing
times = {{start = 1.0, stop = 1e4, points = 25, spacing = "log"}}    # or a list; for gradient flow, learning rate x steps
{_SEEDS}""",
    "transfer": f"""\
schema = 1
title = "Does the best learning rate of a small network hold for a large one?"

[task]                          # what is learned: 8 x 8 handwritten digits, in scikit-learn
kind = "digits"                 # or "fashion-mnist", "cifar-10", "text" (for transformers), "arrays"

[model]                         # what learns it
kind = "mlp"                    # or "resnet", "conv-resnet", "vit", "transformer"
width = [32, 64, 128]           # the one size that is varied; or depth, heads, head_dim
base_width = 32                 # where networks are standard ones; larger sizes follow the parameterization
parameterization = ["sp", "mup"]    # each gets its verdict; also "ntk", "mup-depth", "completep"

[training]                      # how it is trained
optimizer = "sgd"               # or "momentum", "nesterov", "adam", "adamw", "lion"
learning_rate = [0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28]    # what is swept: a factor of 2 apart, or sqrt(2)
batch_size = 64
samples = 1024                  # rows drawn for training; the rest is for testing
times = [0, 100]                # steps; the last one is judged
{_SEEDS.replace("10 ", "3  ")}
[transfer]                      # what is judged
objective = "train_loss"        # or "test_loss"
tolerance = 0.1                 # largest |d ln(best rate) / d ln(size)| that counts as transfer
target = 1024                   # the size that --recommend speaks of
""",
}
