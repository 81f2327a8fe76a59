r"""Draws of the linear random-feature student: Gaussian data and projections (`docs/theory/random-features.md`, (RF.1)).

Data $\psi_k(x)=\sqrt{\lambda_k}z_k$ with Gaussian $z$, target $y=w^\star\cdot\psi(x)+\sigma\epsilon$, student
$f(x)=\frac1{\sqrt N}W\cdot A\psi(x)$ with a frozen Gaussian $A$. Randomness is nested: a seed fixes infinitely many samples and
projections, and sizes take the first $P$ and $N$ of them. So a size gets the same draw whatever else is in the sweep, and
sizes that share a seed can be compared with less noise than independent draws would leave.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from foretrain.errors import InvalidInput
from foretrain.tasks import PowerLawSpectrum, Spectrum
from foretrain.training._draw import Draw, Samples
from foretrain.training._evolution import Moments

# Modes per block of random numbers. Part of what a seed means: changing it changes every draw.
MODE_BLOCK = 4096

_DATA, _NOISE, _FEATURES = 0, 1, 2


class Modes(NamedTuple):
    """Every single mode of a spectrum, largest eigenvalue first.

    Args:
        eigenvalues: Of the training inputs.
        coefficients: Of the target.
        test_eigenvalues: Mean squares on test inputs, where they come from another distribution.
    """

    eigenvalues: Float[np.ndarray, " modes"]
    coefficients: Float[np.ndarray, " modes"]
    test_eigenvalues: Float[np.ndarray, " modes"] | None = None


def explicit_modes(spectrum: Spectrum | PowerLawSpectrum) -> Modes:
    """Every single mode that has a positive eigenvalue in training or in testing.

    Raises:
        InvalidInput: Infinitely many modes, or a multiplicity that is not a whole number.
    """
    if isinstance(spectrum, PowerLawSpectrum):
        if np.isinf(spectrum.modes):
            raise InvalidInput(
                "train(task): modes = inf cannot be simulated; give a finite number of modes (100000 changes the loss of "
                "the theory little at the sizes that can be trained), or use `solve`."
            )
        spectrum = spectrum.to_spectrum()
    counts = np.round(spectrum.multiplicity)
    if np.any(np.abs(counts - spectrum.multiplicity) > 1e-9) or np.any(counts < 1):
        bad = spectrum.multiplicity[np.argmax(np.abs(counts - spectrum.multiplicity) + (counts < 1))]
        raise InvalidInput(
            f"train(task): expected whole multiplicities to simulate, got {bad:g}; use `solve` for others."
        )
    shifted = spectrum.test_eigenvalues
    order = np.argsort(-spectrum.eigenvalues, kind="stable")
    order = order[(spectrum.eigenvalues if shifted is None else spectrum.eigenvalues + shifted)[order] > 0]
    every = np.repeat(order, counts[order].astype(np.int64))
    return Modes(
        spectrum.eigenvalues[every],
        np.sqrt(spectrum.target_power[every]),
        None if shifted is None else shifted[every],
    )


def refine(spectrum: Spectrum, width: float, samples: float, replicas: int) -> tuple[Spectrum, float, float]:
    r"""The replica refinement of a problem: a larger one with exactly the same theory.

    Every mode is repeated `replicas` times with its power shared among the copies, and width and samples grow with it.
    The theory's curves do not change; a simulation's distance from them falls like 1 / replicas. This separates a finite-size
    correction from a wrong prediction.

    Args:
        spectrum: Explicit spectrum.
        width: $N$ or `inf`.
        samples: $P$ or `inf`.
        replicas: $r\ge1$.

    Returns:
        Spectrum, width and samples of the refined problem.

    Example:
        >>> from foretrain.tasks import Spectrum
        >>> refined, width, samples = refine(Spectrum([1.0, 0.5], [1.0, 2.0]), 3, 5, 4)
        >>> refined.total_power, refined.modes, width, samples
        (2.0, 8.0, 12, 20)
    """
    if replicas < 1:
        raise InvalidInput(f"refine(replicas): expected a whole number >= 1, got {replicas}.")
    refined = spectrum.replace(
        target_power=spectrum.target_power / replicas, multiplicity=spectrum.multiplicity * replicas
    )
    return refined, width * replicas, samples * replicas


def linear_draws(
    eigenvalues: Float[np.ndarray, " modes"],
    coefficients: Float[np.ndarray, " modes"],
    widths: Sequence[float],
    samples: Sequence[float],
    seed: int,
    *,
    students: int = 1,
    noisy: bool = True,
    test_eigenvalues: Float[np.ndarray, " modes"] | None = None,
) -> Iterator[tuple[int, int, Draw]]:
    r"""Draws for all sizes of one seed, one at a time.

    Args:
        eigenvalues: Of every mode.
        coefficients: $w^\star_k$.
        widths: Numbers of random features; `inf` is regression on the modes themselves.
        samples: Numbers of samples; `inf` is training on the population.
        seed: What all randomness is drawn from.
        students: Students with independent features on the same data.
        noisy: Carry a unit label-noise part along.
        test_eigenvalues: $q_k$, the modes' mean squares on test inputs; as in training by default.

    Yields:
        Position in `widths`, position in `samples`, draw.
    """
    most = _largest(samples)
    targets = None
    if most:
        targets = _targets(eigenvalues, coefficients, most, seed, noisy)
    # Mean squares of the modes: what the test loss is averaged with and, where needed and different, training on the population.
    weights = [eigenvalues if test_eigenvalues is None else test_eigenvalues]
    if test_eigenvalues is not None and any(np.isinf(size) for size in samples):
        weights.append(eigenvalues)
    drawn = eigenvalues, coefficients, weights
    narrow = sorted(int(n) for n in widths if n <= len(eigenvalues))
    nested = _random_features(*drawn, narrow[-1], most, seed, students) if narrow else None
    for i, width in enumerate(widths):
        if np.isinf(width):
            yield from ((i, j, draw) for j, draw in _mode_space(*drawn, samples, targets, seed))
            continue
        if nested is not None and width <= len(eigenvalues):
            features, moments = _narrowed(*nested, int(width))
        else:
            features, moments = _square_features(*drawn, int(width), most, seed, students)
        for j, size in enumerate(samples):
            if np.isinf(size) or targets is None:
                population = moments[1] if len(moments) == 2 else None
                yield i, j, Draw(_own_moments(moments[-1], students), moments[0], population)
            else:
                p = int(size)
                yield i, j, Draw([Samples(phi[:p], targets[:p]) for phi in features], moments[0])


def _own_moments(moments: Moments, students: int) -> list[Moments]:
    """Every student's own moments out of those of all."""
    width = len(moments.cross) // students
    own = (slice(e * width, (e + 1) * width) for e in range(students))
    return [Moments(moments.second[s, s], moments.cross[s], moments.power) for s in own]


def _largest(sizes: Sequence[float]) -> int:
    return int(max((s for s in sizes if np.isfinite(s)), default=0))


def _generator(seed: int, *stream: int) -> np.random.Generator:
    return np.random.Generator(np.random.SFC64(np.random.SeedSequence((seed, *stream))))


def _blocks(modes: int) -> Iterator[tuple[int, slice]]:
    for index, start in enumerate(range(0, modes, MODE_BLOCK)):
        yield index, slice(start, min(start + MODE_BLOCK, modes))


def _gaussians(seed: int, stream: tuple[int, ...], rows: int, columns: int) -> Float[np.ndarray, "rows columns"]:
    """Rows are drawn in order, so that fewer rows are the first of more."""
    return _generator(seed, *stream).standard_normal((rows, columns), dtype=np.float32).astype(np.float64)


def _data(eigenvalues: np.ndarray, block: tuple[int, slice], samples: int, seed: int) -> np.ndarray:
    index, modes = block
    own = eigenvalues[modes]
    return _gaussians(seed, (_DATA, index), samples, len(own)) * np.sqrt(own)


def _targets(eigenvalues: np.ndarray, coefficients: np.ndarray, samples: int, seed: int, noisy: bool) -> np.ndarray:
    clean = np.zeros(samples)
    for block in _blocks(len(eigenvalues)):
        clean += _data(eigenvalues, block, samples, seed) @ coefficients[block[1]]
    columns = [clean] + ([_generator(seed, _NOISE).standard_normal(samples)] if noisy else [])
    return np.stack(columns, axis=-1)[:, None, :]


def _random_features(
    eigenvalues: np.ndarray,
    coefficients: np.ndarray,
    weights: Sequence[np.ndarray],
    width: int,
    samples: int,
    seed: int,
    students: int,
) -> tuple[np.ndarray, list[Moments]]:
    r"""$\Psi A^\top$ for every student and the moments of $A\psi$, not yet divided by powers of the width."""
    features = np.zeros((students, samples, width))
    moments = [
        Moments(np.zeros((students * width,) * 2), np.zeros((students * width, 1)), _power(own, coefficients))
        for own in weights
    ]
    for block in _blocks(len(eigenvalues)):
        own = slice(block[1].start, block[1].stop)
        data = _data(eigenvalues, block, samples, seed)
        projections = np.concatenate(
            [_gaussians(seed, (_FEATURES, e, block[0]), width, own.stop - own.start) for e in range(students)]
        )
        for e in range(students):
            features[e] += data @ projections[e * width : (e + 1) * width].T
        for mean_squares, sums in zip(weights, moments, strict=True):
            scaled = projections * np.sqrt(mean_squares[own])
            sums.second[:] += scaled @ scaled.T
            sums.cross[:, 0] += scaled @ (np.sqrt(mean_squares[own]) * coefficients[own])
    return features, moments


def _power(mean_squares: np.ndarray, coefficients: np.ndarray) -> float:
    return float(np.sum(mean_squares * coefficients**2))


def _narrowed(features: np.ndarray, moments: list[Moments], width: int) -> tuple[np.ndarray, list[Moments]]:
    students, _, most = features.shape
    kept = (np.arange(students)[:, None] * most + np.arange(width)).ravel()
    scale = np.sqrt(width)
    own = [Moments(m.second[np.ix_(kept, kept)] / width, m.cross[kept] / scale, m.power) for m in moments]
    return features[:, :, :width] / scale, own


def _square_features(
    eigenvalues: np.ndarray,
    coefficients: np.ndarray,
    weights: Sequence[np.ndarray],
    width: int,
    samples: int,
    seed: int,
    students: int,
) -> tuple[np.ndarray, list[Moments]]:
    """More features than modes: a rotation of feature space leaves as many as there are modes."""
    modes = len(eigenvalues)
    triangles = []
    for e in range(students):
        projections = np.concatenate(
            [_gaussians(seed, (_FEATURES, e, b), width, own.stop - own.start) for b, own in _blocks(modes)], axis=1
        )
        triangles.append(np.linalg.qr(projections, mode="r") / np.sqrt(width))
    triangle = np.concatenate(triangles)
    features = np.zeros((students, samples, modes))
    for block in _blocks(modes):
        data = _data(eigenvalues, block, samples, seed)
        for e in range(students):
            features[e] += data @ triangles[e][:, block[1]].T
    moments = []
    for own in weights:
        scaled = triangle * np.sqrt(own)
        moments.append(
            Moments(scaled @ scaled.T, (scaled @ (np.sqrt(own) * coefficients))[:, None], _power(own, coefficients))
        )
    return features, moments


def _mode_space(
    eigenvalues: np.ndarray,
    coefficients: np.ndarray,
    weights: Sequence[np.ndarray],
    samples: Sequence[float],
    targets: np.ndarray | None,
    seed: int,
) -> Iterator[tuple[int, Draw]]:
    """Infinite width: regression on the modes, in mode space where there are more samples than modes."""
    modes = len(eigenvalues)
    few = [int(s) for s in samples if s < modes]
    tested = weights[0]
    gram = second = cross = None
    if few:
        most = max(few)
        gram, second, cross = np.zeros((most, most)), np.zeros((most, most)), np.zeros(most)
        for block in _blocks(modes):
            own = tested[block[1]]
            data = _data(eigenvalues, block, most, seed)
            gram += data @ data.T
            second += (data * own) @ data.T
            cross += data @ (own * coefficients[block[1]])
    whole = [Moments(own, (own * coefficients)[:, None], _power(own, coefficients)) for own in weights]
    for j, size in enumerate(samples):
        if np.isinf(size):
            yield j, Draw([whole[-1]], whole[0], whole[1] if len(whole) == 2 else None)
        elif size < modes and gram is not None and second is not None and cross is not None and targets is not None:
            p = int(size)
            own = Moments(second[:p, :p], cross[:p, None], whole[0].power)
            yield j, Draw([Samples(gram[:p, :p], targets[:p], is_gram=True)], own)
        elif targets is not None:
            data = np.concatenate([_data(eigenvalues, block, int(size), seed) for block in _blocks(modes)], axis=1)
            yield j, Draw([Samples(data, targets[: int(size)])], whole[0])
