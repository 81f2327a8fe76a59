r"""Names, units and numbers of columns: what a file calls them, what this package calls them, and what follows from what.

Counting: `params` as in the source; $C=6ND$ where a table has two of `params` $N$, `tokens` $D$ and `flops` $C$.
"""

import math
import re
from collections.abc import Iterable

MEANINGS: dict[str, str] = {
    "params": "the number of parameters, counted as in the source",
    "params_no_embed": "the number of parameters without embeddings and the output layer",
    "tokens": "the number of training tokens seen",
    "tokens_per_epoch": "the number of different training tokens",
    "flops": "the floating-point operations of the whole training",
    "loss": "the loss in nats per token",
    "run": "the name of the run; rows of one run are resampled together",
    "width": "the size of the residual stream or of a hidden layer",
    "depth": "the number of layers or blocks",
    "heads": "the number of attention heads",
    "lr": "the (peak) learning rate",
    "batch": "the batch size, in a unit that the file does not say",
    "batch_tokens": "the batch size in tokens",
    "batch_seqs": "the batch size in sequences",
    "seq_len": "the number of tokens in a sequence",
    "steps": "the number of optimizer steps",
    "epochs": "the number of passes over the data",
    "weight_bits": "the bits of a weight during training",
    "activation_bits": "the bits of an activation during training",
    "kv_bits": "the bits of attention keys and values during training",
    "post_bits": "the bits to which weights are quantized after training",
    "seed": "the random seed",
}

# Lower case, with every run of spaces, dots, dashes and slashes made one underscore.
_ALIASES: dict[str, tuple[str, ...]] = {
    "params": (
        "n", "n_params", "num_params", "nparams", "parameters", "n_parameters", "num_parameters", "param_count", "params_count",
        "parameter_count", "total_params", "model_params", "model_size", "number_of_parameters", "model_parameters",
    ),
    "params_no_embed": (
        "params_no_emb", "non_embedding_params", "n_params_non_embedding", "params_non_embedding", "non_embedding_parameters",
        "num_non_embedding_params", "n_non_embedding", "params_without_embedding",
    ),
    "tokens": (
        "d", "n_tokens", "num_tokens", "n_toks", "toks", "ntokens", "token_count", "tokens_seen", "total_tokens", "train_tokens",
        "training_tokens", "consumed_tokens", "num_train_tokens", "dataset_tokens", "data_tokens", "number_of_tokens",
    ),
    "tokens_per_epoch": ("unique_tokens", "n_unique_tokens", "num_unique_tokens", "tokens_unique", "unique_data"),
    "flops": (
        "c", "flop", "compute", "total_flops", "train_flops", "training_flops", "training_flop", "compute_flops", "n_flops", "num_flops",
        "training_compute", "budget", "compute_budget",
    ),
    "loss": (
        "l", "train_loss", "training_loss", "final_loss", "val_loss", "valid_loss", "validation_loss", "eval_loss", "test_loss", "ce_loss",
        "cross_entropy", "cross_entropy_loss", "lm_loss", "final_train_loss", "final_val_loss", "best_loss", "loss_nats", "nll", "train_ce",
    ),
    "run": ("run_name", "run_id", "name", "experiment", "exp_name", "experiment_name", "run_uuid", "id"),
    "width": ("d_model", "hidden_size", "hidden_dim", "n_embd", "model_dim", "embed_dim", "dim_model"),
    "depth": ("layers", "n_layers", "n_layer", "num_layers", "num_hidden_layers", "n_blocks", "num_blocks"),
    "heads": ("n_heads", "n_head", "num_heads", "num_attention_heads", "attention_heads"),
    "lr": ("learning_rate", "learningrate", "peak_lr", "max_lr", "base_lr", "peak_learning_rate", "eta"),
    "batch": ("batch_size", "batchsize", "global_batch_size", "bs"),
    "batch_tokens": ("tokens_per_batch", "tokens_per_step", "batch_size_tokens", "batch_size_in_tokens", "global_batch_tokens"),
    "batch_seqs": ("global_batch_seqs", "batch_size_seqs", "seqs_per_batch", "sequences_per_batch"),
    "seq_len": ("sequence_length", "seq_length", "context_length", "block_size", "max_seq_len", "ctx_len", "n_ctx"),
    "steps": ("step", "_step", "global_step", "n_steps", "num_steps", "train_steps", "training_steps", "iterations", "iters", "max_steps"),
    "epochs": ("epoch", "n_epochs", "num_epochs", "repetitions"),
    "weight_bits": ("w_bits", "bits_weights", "bits_w", "weights_bits", "p_w", "pw", "bits_weight", "wbits"),
    "activation_bits": ("a_bits", "act_bits", "bits_activations", "bits_a", "p_a", "pa", "abits", "bits_activation"),
    "kv_bits": ("bits_kv", "p_kv", "pkv", "kvbits"),
    "post_bits": ("bits_post", "ptq_bits", "p_post", "ppost", "bits_ptq", "post_training_bits"),
    "seed": ("random_seed", "rng_seed"),
}  # fmt: skip
_CANONICAL = {alias: name for name, aliases in _ALIASES.items() for alias in aliases}
_PREFIXES = ("config_", "params_", "metrics_", "summary_", "hparams_", "args_", "summary_metrics_")

_SUFFIXES = {"k": 1e3, "m": 1e6, "b": 1e9, "g": 1e9, "bn": 1e9, "t": 1e12, "p": 1e15, "e": 1e18, "z": 1e21}
_NUMBER = re.compile(r"([+-]?(?:\d[\d_]*\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)\s*([a-zA-Z]{0,2})")
_COUNTS = ("params", "params_no_embed", "tokens", "tokens_per_epoch", "flops", "batch_tokens")
_UNIT = re.compile(
    r"^(.*?)[\s_/]*(?:[\(\[]\s*(?:in\s+)?([\w\- ]+?)\s*[\)\]]|(?:in_)?(millions?|billions?|trillions?|thousands?|bits|nats))$",
    re.I,
)
_LETTER_UNIT = re.compile(r"^(.*?)[_/ ]([KMBGT])$")
_UNITS = {"thousand": 1e3, "million": 1e6, "billion": 1e9, "trillion": 1e12, "mn": 1e6, "bn": 1e9}
_FLOP_UNITS = {
    "pf-days": 8.64e19, "pf_days": 8.64e19, "pfdays": 8.64e19, "petaflop-days": 8.64e19, "petaflop_days": 8.64e19, "pflops-days": 8.64e19,
    "pflop/s-days": 8.64e19, "pf days": 8.64e19, "gflop": 1e9, "tflop": 1e12, "pflop": 1e15, "eflop": 1e18, "zflop": 1e21, "gflops": 1e9,
    "tflops": 1e12, "pflops": 1e15, "eflops": 1e18, "zflops": 1e21,
}  # fmt: skip
_LN2 = math.log(2.0)


def parse_number(text: str) -> float | None:
    """A number that may have a suffix (`70M`, `1.4B`, `300G`) or underscores; None when it is none.

    Nothing is evaluated: a formula is text.
    """
    stripped = text.strip()
    if stripped.lower() in _MISSING:
        return math.nan
    try:
        return float(stripped)
    except ValueError:
        pass
    found = _NUMBER.fullmatch(stripped[:64])
    if not found or len(stripped) > 64 or (found[2] and found[2].lower() not in _SUFFIXES):
        return None
    try:
        return float(found[1]) * (_SUFFIXES[found[2].lower()] if found[2] else 1.0)
    except ValueError:
        return None


_MISSING = frozenset(("", "nan", "na", "n/a", "null", "none", "-", "--", "?", "missing", "#n/a"))


def losses_among(names: Iterable[str]) -> list[str]:
    """Names that may well be losses, for a message that asks which one it is."""
    return [n for n in names if "loss" in n.lower() or simplified(n) in _ALIASES["loss"]]


def simplified(name: str) -> str:
    """A name in lower case, with underscores for all that separates words."""
    return re.sub(r"[\s.\-/]+", "_", name.strip().lower())
