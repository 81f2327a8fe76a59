r"""The claims of "How feature learning can improve neural scaling laws" (arXiv 2409.17858) about a convolutional network on Fashion-MNIST.

Capacity, source and noise are measured from the network's initial tangent kernel; the theory of one-pass stochastic gradient descent turns
them into a loss curve before anything is trained.
"""

import dataclasses
import math
from typing import Any

import numpy as np
from jaxtyping import Float

from foretrain.claims._claim import Claim
from foretrain.errors import MissingData
from foretrain.kernels import MeasuredSpectrum, measure_spectrum
from foretrain.problems import ConvResNet, Kernel, NetworkTraining, OnePassSGD, Problem
from foretrain.tasks import FashionMNIST, SpectrumTask
from foretrain.training import InitialKernel, run_network

PAPER = "06"
NAN = math.nan
_LAZY, _RICH = 0.01, 1.0
_ERRORS = 4.0  # standard errors that decide
_TOLERANCE = 0.05  # what measured spectra give on these images, see `docs/theory/measuring-spectra.md`


@dataclasses.dataclass(frozen=True, eq=False)
class ImageCurves:
    """Losses of a convolutional network on Fashion-MNIST, one row a seed.

    Args:
        steps: Numbers of steps.
        measured: What the initial kernel of each network sees.
        predicted: Losses that these spectra predict for one pass over data.
        lazy: Losses of the networks at small richness.
        rich: Losses at richness 1.
    """

    steps: Float[np.ndarray, " time"]
    measured: tuple[MeasuredSpectrum, ...]
    predicted: Float[np.ndarray, "seeds time"]
    lazy: Float[np.ndarray, "seeds time"]
    rich: Float[np.ndarray, "seeds time"]


def image_problem(richness: float) -> Problem:
    """A small convolutional network that tells the first five classes of Fashion-MNIST from the others.

    Args:
        richness: Of the network.
    """
    return Problem(
        FashionMNIST(classes=((0, 1, 2, 3, 4), (5, 6, 7, 8, 9)), scale="variance", test_samples=2048),
        ConvResNet(width=16, depth=2, stride=4, richness=richness, parameterization="mup"),
        NetworkTraining(learning_rate=0.5, batch_size=128, centre=True),
    )


def image_curves(*, points: int, steps: int, seeds: int) -> ImageCurves:
    """Measure the initial kernel, predict the lazy curve from it, and train both kinds of networks.

    Args:
        points: Rows of the Gram matrix; as many more test.
        steps: Of training.
        seeds: Networks.

    Raises:
        MissingData: Fashion-MNIST is not on this machine.
    """
    from foretrain.limits import solve

    lazy, rich = image_problem(_LAZY), image_problem(_RICH)
    data = lazy.task.load()  # type: ignore[attr-defined]
    times = np.unique(np.round(np.geomspace(1, steps, 16)))
    measured, predicted = [], []
    for seed in range(seeds):
        kernel = InitialKernel(lazy, seed=seed)
        rows = np.random.default_rng(seed).permutation(len(data))[: 2 * points]
        found = measure_spectrum(
            kernel, data.inputs[rows], data.targets[rows], max_points=points, max_fresh=points, seed=seed
        )
        spectrum, noise = found.spectrum, found.noise.value
        task = SpectrumTask(spectrum.eigenvalues, spectrum.target_power, spectrum.multiplicity, noise=noise)
        training: Any = lazy.training
        online = OnePassSGD(learning_rate=training.learning_rate, batch_size=training.batch_size)
        predicted.append(solve(Problem(task, Kernel(), online), times).values("test_loss") + noise)
        measured.append(found)
    curves = [run_network(problem, times, seeds=list(range(seeds))).test_loss[0] for problem in (lazy, rich)]
    return ImageCurves(times, tuple(measured), np.array(predicted), *curves)


def image_claims(fast: bool) -> list[Claim]:
    """What a convolutional network does on Fashion-MNIST, beside what the paper says.

    Args:
        fast: Two seeds and a quarter of the steps.
    """
    words = (
        "a convolutional network on Fashion-MNIST: capacity and source of its initial kernel predict the lazy loss curve, largest deviation of the mean",
        "a convolutional network on Fashion-MNIST: rich training against the lazy prediction, loss over it at the end",
    )
    try:
        curves = (
            image_curves(points=1000, steps=500, seeds=2) if fast else image_curves(points=2000, steps=2000, seeds=3)
        )
    except MissingData as error:
        return [Claim(PAPER, one, "", NAN, NAN, NAN, "not run", str(error)) for one in words]
    ratio = (curves.lazy / curves.predicted).mean(axis=0)
    worst = float(np.max(np.abs(ratio - 1)))
    gain = curves.rich[:, -1] / curves.predicted[:, -1]
    rich, error = float(gain.mean()), float(gain.std(ddof=1) / math.sqrt(len(gain)))
    capacity, source = (np.mean([getattr(m, name).value for m in curves.measured]) for name in ("capacity", "source"))
    one = curves.measured[0]
    setting = f"{len(gain)} seeds, {curves.steps[-1]:g} steps of 128 at rate 0.5"
    return [
        Claim(
            PAPER,
            words[0],
            0.0,
            NAN,
            worst,
            NAN,
            _verdict(worst < _TOLERANCE),
            f"{setting}: capacity {capacity:.2f}, source {source:.2f} (first seed: {one.capacity}, {one.source}), a hard task; "
            f"{_TOLERANCE:g} is what measured spectra give on these images",
        ),
        Claim(
            PAPER,
            words[1],
            "< 1",
            1.0,
            rich,
            error,
            _verdict(rich < 1 - _ERRORS * error),
            f"{setting}: richness 1 ends at {curves.rich[:, -1].mean():.3f}, richness {_LAZY:g} at {curves.lazy[:, -1].mean():.3f}, "
            f"predicted {curves.predicted[:, -1].mean():.3f}",
        ),
    ]


def _verdict(yes: bool) -> str:
    return "reproduced" if yes else "not reproduced"
