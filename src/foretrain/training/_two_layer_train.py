"""`train` for the two-layer linear model: what cannot be trained, and one seed over the axes that share its draw."""

import functools
import math
from collections.abc import Callable, Sequence

import jax
import numpy as np

from foretrain.problems import AbstractProtocol, GradientDescent, GradientFlow, OnePassSGD, TwoLayerLinear
from foretrain.tasks import AbstractSpectralTask, AbstractTask
from foretrain.training._batches import Times, step_sizes
from foretrain.training._budget import Cost, linear_cost, plan_workers, stepped_network_cost
from foretrain.training._collect import SeedResult, values_of
from foretrain.training._linear_student import explicit_modes, linear_draws
from foretrain.training._stepped import at_times
from foretrain.training._two_layer_flow import two_layer_flow
from foretrain.training._two_layer_linear import students_of
from foretrain.training._two_layer_steps import STEPS, two_layer_steps

_PROTOCOLS = (GradientFlow, GradientDescent, OnePassSGD)


def untrainable_two_layer(task: AbstractTask, model: TwoLayerLinear, training: AbstractProtocol) -> str | None:
    """Why a single problem has no network that can be trained, or `None`.

    Args:
        task: Without axes.
        model: Without axes.
        training: Without axes.
    """
    if not isinstance(task, AbstractSpectralTask):
        return f"the model 'two-layer-linear' needs a task that is declared by its spectrum, got {task.kind!r}"
    if not isinstance(training, _PROTOCOLS):
        names = ", ".join(repr(protocol.kind) for protocol in _PROTOCOLS)
        return f"two-layer linear networks are trained by {names}, got {training.kind!r}"
    if math.isinf(model.width):  # type: ignore[arg-type]
        return "width = inf is no network"
    return None


def two_layer_work(
    task: AbstractSpectralTask,
    model: TwoLayerLinear,
    training: AbstractProtocol,
    protocols: Sequence[AbstractProtocol],
    times: Times,
    seeds: int,
) -> tuple[Callable[[int, Callable[[], None]], SeedResult], Cost]:
    """A function that trains one seed at all sizes, noise levels and protocols, and what it costs.

    Args:
        task: Without axes but for the noise.
        model: Without axes but for the width.
        training: The protocols with all their axes.
        protocols: Each without axes.
        times: Times or numbers of steps.
        seeds: How many seeds there will be.
    """
    noises, widths = values_of(task, "noise"), values_of(model, "width")
    sizes = [math.inf if size is None else size for size in values_of(training, "samples")]
    richness = float(model.richness)  # type: ignore[arg-type]
    spectrum = task.spectrum()
    cost = linear_cost(int(spectrum.modes), widths, sizes, 1, len(times))
    plan_workers(cost, seeds)  # refuses what is too large before the modes are written out
    modes = explicit_modes(spectrum)
    batches = [protocol.batch_size for protocol in protocols if isinstance(protocol, OnePassSGD)]
    if training.discrete:
        runs = int(np.max(times)) * len(noises) * len(protocols)
        for n in (int(min(width, size, len(modes.eigenvalues))) for width in widths for size in sizes):
            fresh = n + 2 * max(batches) if batches else 0  # type: ignore[operator, type-var]
            cost += stepped_network_cost([n * n], 0, fresh, runs, False, STEPS)
    draws = functools.partial(
        linear_draws,
        modes.eigenvalues,
        modes.coefficients,
        widths,
        sizes,
        noisy=any(noise > 0 for noise in noises),
        test_eigenvalues=modes.test_eigenvalues,
    )

    def work(seed: int, check: Callable[[], None]) -> SeedResult:
        result = SeedResult.empty(
            len(noises), len(widths), 1, len(protocols), len(sizes), len(times), readout_norm=True
        )
        assert result.readout_norm is not None
        with jax.enable_x64(True), np.errstate(over="ignore", invalid="ignore"):
            for i, j, draw in draws(seed):
                for level, student in enumerate(students_of(draw, noises)):
                    for k, protocol in enumerate(protocols):
                        check()
                        if isinstance(protocol, GradientFlow):
                            theta, norm = two_layer_flow(student.values, student.drive, richness, times)
                            test, train = student.losses(theta)
                        else:
                            batch = protocol.batch_size if isinstance(protocol, OnePassSGD) else None
                            rates = step_sizes(protocol, times)
                            found = two_layer_steps(student, richness, rates, batch, seed, check)  # type: ignore[arg-type]
                            test, train, norm = at_times(found, times)
                        result.test_loss[level, i, 0, k, j] = test
                        result.train_loss[level, i, 0, k, j] = train
                        result.readout_norm[level, i, 0, k, j] = norm
        return result

    return work, cost
