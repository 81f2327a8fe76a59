"""`train` for deep linear networks: their sizes, what cannot be trained, and one seed over the axes that share its draw."""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Float

from foretrain.problems import AbstractProtocol, DeepLinear, GradientDescent, Momentum, OnePassSGD
from foretrain.tasks import AbstractSpectralTask, AbstractTask, PowerLawSpectrum, SpectrumTask
from foretrain.training._batches import Times, step_sizes
from foretrain.training._budget import Cost, stepped_network_cost
from foretrain.training._collect import SeedResult
from foretrain.training._deep_linear import (
    STEPS,
    Samples,
    Setting,
    Sizes,
    deep_linear_losses,
    draw_samples,
    draw_weights,
)
from foretrain.training._stepped import at_times

_PROTOCOLS = (GradientDescent, Momentum, OnePassSGD)


class Inputs(NamedTuple):
    r"""Every dimension of the inputs, in the convention $y=\frac1{\sqrt D}w_\star\cdot x$ of deep linear networks.

    Args:
        eigenvalues: Variances of training inputs.
        tested: Variances of test inputs.
        coefficients: $w_\star$. Nothing depends on signs, or on directions among equal eigenvalues, as the weights are Gaussian.
    """

    eigenvalues: Float[np.ndarray, " inputs"]
    tested: Float[np.ndarray, " inputs"]
    coefficients: Float[np.ndarray, " inputs"]


def deep_linear_inputs(task: AbstractSpectralTask) -> Inputs:
    r"""The inputs of a task, whose losses are sums over modes; of a `spectrum` task means, $\frac1D\sum_k\lambda_kv_k^2$.

    Args:
        task: A task without axes, of a whole and finite number of dimensions.
    """
    spectrum = task.spectrum()
    if isinstance(spectrum, PowerLawSpectrum):
        spectrum = spectrum.to_spectrum()
    counts = np.round(spectrum.multiplicity).astype(np.int64)
    tested = spectrum.eigenvalues if spectrum.test_eigenvalues is None else spectrum.test_eigenvalues
    power = spectrum.target_power * (1.0 if isinstance(task, SpectrumTask) else counts.sum())
    return Inputs(*(np.repeat(values, counts) for values in (spectrum.eigenvalues, tested, np.sqrt(power))))


def untrainable_deep_linear(task: AbstractTask, model: DeepLinear, training: AbstractProtocol) -> str | None:
    """Why a single problem has no network that can be trained, or `None`.

    Args:
        task: Without axes.
        model: Without axes.
        training: Without axes.
    """
    if not isinstance(task, AbstractSpectralTask):
        return f"the model 'deep-linear' needs a task that is declared by its spectrum, got {task.kind!r}"
    if not isinstance(training, _PROTOCOLS):
        names = ", ".join(repr(protocol.kind) for protocol in _PROTOCOLS)
        return f"deep linear networks are trained by {names}, got {training.kind!r}"
    for name in ("width_ratio", "depth"):
        if math.isinf(getattr(model, name)):
            return f"{name} = inf is no network"
    modes = getattr(task, "modes", None)
    if modes is not None and math.isinf(modes):
        return "modes = inf is no dimension of inputs; give a finite number of modes"
    counts = getattr(task, "multiplicity", None)
    if counts is not None and np.any(np.abs(counts - np.round(counts)) > 1e-9):
        return "multiplicity holds fractions, so that the dimension of the inputs is not known; give whole numbers"
    inputs = _dimension(task)
    if inputs == 1:
        key = "modes" if modes is not None else "multiplicity"
        return f"the inputs have one dimension; give {key} = D, which the ratios of sizes refer to"
    for part, name in ((model, "width_ratio"), (training, "sample_ratio"), (training, "batch_ratio")):
        ratio = getattr(part, name, None)
        if ratio is None or math.isinf(ratio):
            continue
        near = max(1, round(ratio * inputs))
        if abs(ratio * inputs - near) > 1e-9 * near:
            return (
                f"{name} = {ratio:g} of {inputs} dimensions is {ratio * inputs:g}, not a whole number; the nearest that works is "
                f"{near / inputs:.10g}"
            )
    return None


def _dimension(task: AbstractSpectralTask) -> int:
    return round(task.spectrum().modes)


def sizes_of(task: AbstractSpectralTask, model: DeepLinear, training: AbstractProtocol) -> Sizes:
    """The whole sizes of a single problem.

    Args:
        task: Without axes.
        model: Without axes.
        training: Without axes.
    """
    inputs = _dimension(task)

    def whole(part: Any, name: str) -> int | None:
        ratio = getattr(part, name, None)
        return None if ratio is None or math.isinf(ratio) else round(ratio * inputs)

    width, depth = whole(model, "width_ratio"), int(model.depth)  # type: ignore[arg-type]
    return Sizes(inputs, width or 1, depth, whole(training, "sample_ratio"), whole(training, "batch_ratio"))


def setting_of(inputs: Inputs, model: DeepLinear, training: AbstractProtocol, noise: float) -> Setting:
    """The numbers of a run.

    Args:
        inputs: Of the task.
        model: Without axes.
        training: Without axes.
        noise: Variance of the label noise.
    """
    richness, branch = float(model.richness), 1.0  # type: ignore[arg-type]
    if model.parameterization == "ntk":
        richness /= math.sqrt(model.width_ratio)  # type: ignore[arg-type]
    if model.residual:
        exponent = 0.5 if model.depth_exponent is None else model.depth_exponent
        branch = (1.0 if model.branch_scale is None else model.branch_scale) * model.depth**-exponent  # type: ignore[operator]
    momentum = training.momentum if isinstance(training, Momentum) else 0.0
    return Setting(*inputs, richness, float(model.residual), branch, math.sqrt(noise), momentum)  # type: ignore[arg-type]


def deep_linear_work(
    task: AbstractSpectralTask,
    model: DeepLinear,
    protocols: Sequence[AbstractProtocol],
    noises: Sequence[float],
    times: Times,
) -> tuple[Callable[[int, Callable[[], None]], SeedResult], Cost]:
    """A function that trains one seed at all noise levels and protocols, and what it costs.

    Args:
        task: Without axes but for the noise.
        model: Without axes.
        protocols: Each without axes.
        noises: Variances of the label noise.
        times: Numbers of steps.
    """
    sizes = [sizes_of(task, model, protocol) for protocol in protocols]
    steps = int(np.max(times))
    most = max((size.samples for size in sizes if size.samples is not None), default=0)
    first = sizes[0]
    cost = stepped_network_cost(
        [first.inputs * first.width] + [first.width**2] * (first.depth - 1),
        most * first.inputs,
        max(first.inputs + 2 * size.batch if size.batch else 0 for size in sizes),
        steps * len(noises) * len(protocols),
        any(getattr(protocol, "momentum", 0.0) for protocol in protocols),
        STEPS,
    )

    def work(seed: int, check: Callable[[], None]) -> SeedResult:
        inputs = deep_linear_inputs(task)
        result = SeedResult.empty(len(noises), 1, 1, len(protocols), 1, len(times))
        with jax.enable_x64(True), np.errstate(over="ignore", invalid="ignore"):
            weights = draw_weights(first, seed)
            drawn = draw_samples(inputs.eigenvalues, most, seed) if most else None
            for k, (protocol, size) in enumerate(zip(protocols, sizes, strict=True)):
                own = None
                if drawn is not None and size.samples is not None:
                    own = Samples(*(values[: size.samples] for values in drawn))
                for i, noise in enumerate(noises):
                    setting = setting_of(inputs, model, protocol, noise)
                    found = deep_linear_losses(weights, setting, size, step_sizes(protocol, times), own, seed, check)
                    result.test_loss[i, 0, 0, k, 0], result.train_loss[i, 0, 0, k, 0] = at_times(found, times)
        return result

    return work, cost
