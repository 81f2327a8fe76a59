r"""What each protocol does to one eigenvalue of the tangent matrix, in closed form.

With the tangent matrix $\Phi\Phi^\top/P$ and its eigenvalues $u$, every protocol trains the readout to
$W_t=\tfrac1P\Phi^\top g_t(\Phi\Phi^\top/P)\,y$ and leaves the residual $y-\Phi W_t=f_t(\Phi\Phi^\top/P)\,y$ with

$$f_t(u)=1-u\,g_t(u),\qquad f_t(0)=1.$$

| protocol | $f_t(u)$ |
| --- | --- |
| gradient flow | $e^{-ut}$ |
| gradient descent | $\prod_{s<t}(1-\eta_su)$ |
| heavy ball, $x_\pm$ the roots of $x^2-(1+\beta-\eta u)x+\beta$ | $\frac{(1-x_-)x_+^{t+1}-(1-x_+)x_-^{t+1}}{x_+-x_-}$ |
| momentum flow, $p_\pm$ the roots of $\beta p^2+p+u$ | $\frac{p_+e^{p_-t}-p_-e^{p_+t}}{p_+-p_-}$ |
| ridge | $\mu/(u+\mu)$ |

No protocol is stepped: the cost does not depend on the number of steps. Both $f$ and $g$ are computed without
cancellation, so that $ut\to0$ and double roots keep their digits.
"""

import numpy as np
from jaxtyping import Bool, Float

from foretrain.problems import (
    SGD,
    AbstractProtocol,
    GradientDescent,
    GradientFlow,
    Momentum,
    MomentumFlow,
    OnePassSGD,
    Ridge,
    Schedule,
)

Eigenvalues = Float[np.ndarray, " eigenvalues"]
Times = Float[np.ndarray, " time"]
Filter = Float[np.ndarray, "time eigenvalues"]


def spectral_filters(
    protocol: AbstractProtocol, eigenvalues: Eigenvalues, times: Times | None
) -> tuple[Filter, Filter]:
    """What is left of each eigencomponent of the targets, and how much of it the readout holds.

    Args:
        protocol: A protocol without axes.
        eigenvalues: $u$, eigenvalues of the tangent matrix (divided by the number of samples). Those that are not
            positive take no part: $f=1$, $g=0$.
        times: Times of a flow or steps of a discrete protocol, in any order; `inf` is the end point. `None` for ridge.

    Returns:
        $f_t(u)$ and $g_t(u)=(1-f_t(u))/u$. Meaningless where `diverged` says so.

    Example:
        >>> import numpy as np
        >>> from foretrain.problems import GradientDescent
        >>> f, g = spectral_filters(GradientDescent(learning_rate=0.5), np.array([1.0]), np.array([0.0, 1.0, 2.0]))
        >>> f[:, 0], g[1:, 0]
        (array([1.  , 0.5 , 0.25]), array([0.5 , 0.75]))
    """
    u = np.where(eigenvalues > 0, eigenvalues, 1.0)
    t = np.zeros((1, 1)) if times is None else np.asarray(times, dtype=np.float64)[:, None]
    finite = np.where(np.isfinite(t), t, 0.0)
    with np.errstate(over="ignore", under="ignore", invalid="ignore", divide="ignore"):
        if isinstance(protocol, Ridge):
            f, deficit = protocol.ridge / (u + protocol.ridge), u / (u + protocol.ridge)
            f, deficit = f[None], deficit[None]
        elif isinstance(protocol, GradientFlow):
            f, deficit = np.exp(-u * finite), -np.expm1(-u * finite)
        elif isinstance(protocol, GradientDescent):
            f, deficit = _gradient_descent(protocol, u, finite)
        elif isinstance(protocol, Momentum):
            f, deficit = _heavy_ball(protocol.learning_rate * u, protocol.momentum, finite)  # type: ignore[arg-type, operator]
        elif isinstance(protocol, MomentumFlow):
            f, deficit = _momentum_flow(u, protocol.momentum, finite)  # type: ignore[arg-type]
        else:
            raise TypeError(f"spectral_filters: no closed form for the protocol {protocol.kind!r}")
    end = np.isinf(t)
    if np.any(end):
        last = _at_infinity(protocol, u)
        f, deficit = np.where(end, last, f), np.where(end, 1 - last, deficit)
    learns = eigenvalues > 0
    return np.where(learns, f, 1.0), np.where(learns, deficit / u, 0.0)


def diverged(protocol: AbstractProtocol, largest: float, times: Times | None) -> Bool[np.ndarray, " time"]:
    """Whether training has left the stable range, for each time.

    A constant learning rate diverges from its first step when it is above `max_stable_learning_rate`; a schedule has
    diverged when it has made the top eigencomponent larger than it was.

    Args:
        protocol: A protocol without axes.
        largest: Largest eigenvalue of the tangent matrix.
        times: As for `spectral_filters`.
    """
    if times is None:
        return np.zeros(1, dtype=bool)
    times = np.asarray(times, dtype=np.float64)
    if isinstance(protocol, GradientDescent) and not _constant(protocol.schedule):
        f, _ = spectral_filters(protocol, np.array([largest]), times)
        return ~(np.abs(f[:, 0]) <= 1 + 1e-9)
    edge = max_stable_learning_rate(protocol, largest)
    return (times > 0) & bool(edge is not None and protocol.learning_rate > edge)  # type: ignore[attr-defined]


def max_stable_learning_rate(protocol: AbstractProtocol, largest: float) -> float | None:
    r"""Above this learning rate the protocol diverges: $2/u_{\max}$, $2(1+\beta)/u_{\max}$ for heavy ball; `None` for flows.

    For stochastic gradient descent this is the edge of the mean over batches, full-batch descent. It is necessary, not sufficient:
    small batches can diverge below it.

    Args:
        protocol: A protocol without axes; a schedule counts by its largest factor, which is 1.
        largest: $u_{\max}$, largest eigenvalue of the tangent matrix.
    """
    if isinstance(protocol, (GradientDescent, SGD, OnePassSGD)):
        return 2.0 / largest
    if isinstance(protocol, Momentum):
        return 2.0 * (1 + protocol.momentum) / largest  # type: ignore[operator]
    return None


def _constant(schedule: Schedule | None) -> bool:
    return schedule is None or (schedule.shape == "constant" and schedule.warmup == 0)


def _power(x: Eigenvalues, t: Float[np.ndarray, "time 1"]) -> tuple[Filter, Filter]:
    """`(1 - x)^t` and `1 - (1 - x)^t` for whole t >= 0, without cancellation at small x."""
    base = 1 - x
    log = np.where(np.abs(x) < 0.5, np.log1p(-x), np.log(np.abs(base)))
    exponent = np.where(t == 0, 0.0, t * log)
    odd = (base < 0) & (np.mod(t, 2) == 1)
    magnitude = np.exp(exponent)
    return np.where(odd, -magnitude, magnitude), np.where(odd, 1 + magnitude, -np.expm1(exponent))


def _gradient_descent(
    protocol: GradientDescent, u: Eigenvalues, t: Float[np.ndarray, "time 1"]
) -> tuple[Filter, Filter]:
    if _constant(protocol.schedule):
        return _power(protocol.learning_rate * u, t)  # type: ignore[operator]
    return _scheduled(protocol.learning_rate, protocol.schedule, u, t[:, 0])  # type: ignore[arg-type]


def _scheduled(rate: float, schedule: Schedule, u: Eigenvalues, t: Times) -> tuple[Filter, Filter]:
    """The product over steps: equal factors are taken together, and all steps after the schedule are one power."""
    varying = schedule.last
    last = schedule.factors(varying + 1)[-1]
    factors = schedule.factors(int(min(varying, t.max(initial=0.0))))
    logs, odd = np.zeros_like(u), np.zeros(u.shape, dtype=bool)
    f, deficit = np.empty((len(t), len(u))), np.empty((len(t), len(u)))
    done = 0.0
    for i in np.argsort(t, kind="stable"):
        stop = min(int(t[i]), varying)
        if t[i] > done:
            values, counts = np.unique(factors[int(min(done, varying)) : stop], return_counts=True)
            after = t[i] - max(done, varying)
            if after > 0:
                values, counts = np.append(values, last), np.append(counts.astype(np.float64), after)
            for value, count in zip(values, counts, strict=True):
                x = rate * value * u
                logs = logs + count * np.where(np.abs(x) < 0.5, np.log1p(-x), np.log(np.abs(1 - x)))
                odd = odd ^ ((x > 1) & (count % 2 == 1))
            done = t[i]
        magnitude = np.exp(logs)
        f[i] = np.where(odd, -magnitude, magnitude)
        deficit[i] = np.where(odd, 1 + magnitude, -np.expm1(logs))
    return f, deficit


def _heavy_ball(x: Eigenvalues, beta: float, t: Float[np.ndarray, "time 1"]) -> tuple[Filter, Filter]:
    r"""Heavy ball at $x=\eta u$. With the roots written $1-\delta_\pm$: $\delta_+\delta_-=x$, $\delta_++\delta_-=1-\beta+x$."""
    if beta == 0:
        return _power(x, t)
    n = t + 1
    total = 1 - beta + x
    discriminant = total**2 - 4 * x
    root = np.sqrt(discriminant.astype(np.complex128))
    # Both roots of delta^2 - total delta + x, the small one by the product so that it keeps its digits.
    large = (total + root) / 2
    small = x / large
    power_small, deficit_small = _complex_power(small, n)
    power_large, deficit_large = _complex_power(large, n)
    gap = large - small
    f = (power_small * large - power_large * small) / gap
    deficit = (deficit_small * large - deficit_large * small) / gap
    # Near a double root: f = beta^{n/2} [cosh(n d) + (delta_+ + delta_-) / (2 sqrt(beta)) sinh(n d) / sinh(d)].
    half = np.sqrt(beta)
    sign = np.where(np.real(large) > 1, -1.0, 1.0)
    d = np.arcsinh(gap / (2 * half * sign))
    close = (np.abs(n * d) < 0.1) & (np.abs(gap) < 0.02 * np.abs(large))
    near = sign**n * half**n * (np.cosh(n * d) + sign * total / (2 * half) * _sinh_ratio(n, d))
    near = np.where(close, near, 0.0)
    return np.real(np.where(close, near, f)), np.real(np.where(close, 1 - near, deficit))


def _complex_power(delta: np.ndarray, n: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """`(1 - delta)^n` and one minus it; real negative bases by parity, so that large n keep their digits."""
    x, y = np.real(delta), np.imag(delta)
    real = y == 0
    plain, deficit = _power(np.where(real, x, 0.0), n)
    modulus = np.log1p(-2 * x + x**2 + y**2) / 2
    angle = np.arctan2(-y, 1 - x)
    log = n * (modulus + 1j * angle)
    return np.where(real, plain, np.exp(log)), np.where(real, deficit, -np.expm1(log))


def _sinh_ratio(n: np.ndarray, d: np.ndarray) -> np.ndarray:
    """sinh(n d) / sinh(d) for small n d, also at d = 0."""
    return (
        n
        * (1 + (n * d) ** 2 / 6 + (n * d) ** 4 / 120 + (n * d) ** 6 / 5040)
        / (1 + d**2 / 6 + d**4 / 120 + d**6 / 5040)
    )


def _momentum_flow(u: Eigenvalues, beta: float, t: Float[np.ndarray, "time 1"]) -> tuple[Filter, Filter]:
    root = np.sqrt((1 - 4 * beta * u).astype(np.complex128))
    slow = -2 * u / (1 + root)
    fast = -(1 + root) / (2 * beta)
    gap = root / beta
    f = (slow * np.exp(fast * t) - fast * np.exp(slow * t)) / gap
    deficit = (fast * np.expm1(slow * t) - slow * np.expm1(fast * t)) / gap
    # Near critical damping: f = e^{-t/2b} [cosh(dt) + (t/2b) sinh(dt)/(dt)], d = sqrt(1 - 4bu)/2b.
    d = root / (2 * beta)
    close = np.abs(d * t) < 0.1
    y = np.where(close, (d * t) ** 2, 0.0)
    series = 1 + y / 6 + y**2 / 120 + y**3 / 5040
    near = np.exp(-t / (2 * beta)) * (np.cosh(np.sqrt(y)) + t / (2 * beta) * series)
    # At early times both forms are close to 1: the deficit comes from the two-root form unless the roots coincide.
    merged = close & (np.abs(root) < 0.1)
    return np.real(np.where(merged, near, f)), np.real(np.where(merged, 1 - near, deficit))


def _at_infinity(protocol: AbstractProtocol, u: Eigenvalues) -> Filter:
    """What is left at the end point of a stable run: 0, unless a schedule stops learning before it is there."""
    schedule = protocol.schedule if isinstance(protocol, GradientDescent) else None
    if schedule is not None and schedule.steps is not None and schedule.shape != "constant" and schedule.final == 0:
        f, _ = _scheduled(protocol.learning_rate, schedule, u, np.array([float(schedule.steps)]))  # type: ignore[attr-defined]
        return f
    return np.zeros((1, len(u)))
