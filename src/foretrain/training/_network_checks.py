"""Which network problems can be trained."""

import math

import numpy as np
from jaxtyping import Float

from foretrain._declaration import Declaration, WrongKey
from foretrain.problems import AbstractNetwork, ConvResNet, NetworkTraining, Transformer, ViT
from foretrain.problems._networks import is_finite
from foretrain.tasks import AbstractDataTask, AbstractTokenTask


def untrainable_network(task: Declaration, model: Declaration, training: Declaration) -> str | None:
    """Why a problem with a network, or with the training of one, cannot be trained, or `None`. No data are read.

    Args:
        task: Without axes.
        model: Without axes.
        training: Without axes.
    """
    if not isinstance(model, AbstractNetwork):
        return f"the model {model.kind!r} is not trained by an optimizer; a network is, or choose another protocol"
    if not isinstance(training, NetworkTraining):
        return f"the network {model.kind!r} needs an optimizer; the protocol {training.kind!r} does not train networks"
    if not is_finite(model):
        return "infinitely large networks cannot be trained; give finite sizes"
    tokens = isinstance(task, AbstractTokenTask)
    if not tokens and not isinstance(task, AbstractDataTask):
        return f"a network needs rows of data or tokens; the task {task.kind!r} has a spectrum only"
    if tokens != isinstance(model, Transformer):
        what = "tokens" if tokens else "rows of data"
        other = "use the model 'transformer'" if tokens else "use a task of tokens such as 'text', or another model"
        return f"the network {model.kind!r} does not take {what}; {other}"
    if tokens and training.loss != "cross-entropy":
        return "tokens are classes: loss = 'cross-entropy' is needed"
    if tokens and training.samples is not None:
        return "samples means nothing on tokens, where every step draws windows; leave it out"
    if training.samples is not None and math.isinf(training.samples):  # type: ignore[arg-type]
        return "samples = inf on data: there are only as many rows as the set holds"
    has_attention = isinstance(model, (Transformer, ViT))
    if training.precision is not None and training.precision.kv != math.inf and not has_attention:
        return f"the network {model.kind!r} has no attention, so no keys and values to round; leave kv out of the precision"
    return None


def check_steps(training: NetworkTraining, times: Float[np.ndarray, " time"], who: str) -> None:
    """Refuse times that a run does not have.

    Args:
        training: With or without axes.
        times: Numbers of steps; `inf` is the end of the run.
        who: Named in the error.

    Raises:
        WrongKey: `inf` without a horizon, or a time after it.
    """
    if training.horizon is None:
        if np.any(np.isinf(times)):
            raise WrongKey(
                who,
                "times",
                f"expected finite numbers of steps for {training.kind!r}, got inf, which is the end of a run that has a horizon",
            )
        return
    shortest, last = int(np.min(training.horizon)), float(np.max(times, where=np.isfinite(times), initial=0.0))
    if last > shortest:
        raise WrongKey(
            who, "times", f"expected at most the horizon, {shortest} steps, got {last:g}; inf is the end of every run"
        )


def wrong_images(model: AbstractNetwork, inputs: int) -> str | None:
    """Why rows of that length are not images that the network takes, or `None`.

    Args:
        model: A network.
        inputs: Length of a row.
    """
    if not isinstance(model, (ConvResNet, ViT)):
        return None
    side = next(
        (math.isqrt(inputs // c) for c in (1, 3) if inputs % c == 0 and math.isqrt(inputs // c) ** 2 * c == inputs), 0
    )
    if side == 0:
        return f"the network {model.kind!r} takes square images with 1 or 3 channels; rows of length {inputs} are none"
    if isinstance(model, ViT) and side % model.patch:
        return f"images of {side} x {side} pixels cannot be cut into patches of {model.patch} x {model.patch}; choose another patch"
    return None
