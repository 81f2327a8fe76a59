r"""The slow road to the theory of random features: its two-time equations, marched on a grid of times.

Nothing here is shared with `foretrain.limits.linear`, which works with contour integrals of transforms. The equations are
those of the fields of one training run in the limit of large sizes (the dynamical mean-field theory of arXiv 2402.01092),
before any transform. With $v$ the error, $\Delta=\Psi v+\sigma\epsilon$, $v^2=\frac1P\Psi^\top\Delta$, $v^4=F v^2$:

$$v_k=w_k1-Gv^4_k,\qquad v^4_k=u^4_k+R_3v^2_k,\qquad v^2_k=u^2_k+\lambda_kR_1v_k,$$

where every letter without $k$ is a matrix over pairs of times: $G$ integrates (a step, a quadrature, an inertial kernel),
$R_1,R_3$ are responses, and $u^2_k,u^4_k$ are independent Gaussian processes with covariances $\lambda_kC_1/P$ and $C_3/N$.
With $H_k=(1+\lambda_kGR_3R_1)^{-1}$:

$$R_1^{-1}=1+\tfrac1P\sum_k\lambda_kH_kGR_3,\qquad R_3^{-1}=1+\tfrac1NR_1\sum_k\lambda_kH_kG,$$
$$C_0=\sum_k\lambda_k\langle v_kv_k^\top\rangle,\quad C_1=R_1(C_0+\sigma^211^\top)R_1^\top,\quad
C_2=\sum_k\langle v^2_kv^{2\top}_k\rangle,\quad C_3=R_3C_2R_3^\top.$$

The losses are the diagonals of $C_0$ and $C_1$. For protocols that step, the grid is the protocol itself and the road is
exact. For flows $G$ is a trapezoidal rule and the results are extrapolated in the square of the step.
"""

import numpy as np
import pytest

from foretrain.limits.linear import (
    Descent,
    Flow,
    HeavyBall,
    InertialFlow,
    linear_curves,
    max_stable_lr,
    spectral_measure,
)
from foretrain.problems import Schedule

MODES = 40
EIGENVALUES = np.arange(1.0, MODES + 1) ** -1.2
POWER = np.arange(1.0, MODES + 1) ** -1.6 / EIGENVALUES
WIDTH, SAMPLES, NOISE = 14.0, 22.0, 0.16
# What the contours promise (their nodes reach 4e-12) with room for the tens of roundings of a march of 50 steps.
ROUNDING = 5e-11
# Two pairs of modes with multiplicities that are no whole numbers, where theory still makes sense.
GROUPS = (np.array([1.0, 0.3, 0.05]), np.array([0.5, 1.0, 2.0]), np.array([2.5, 7.0, 11.0]))


def step_integrator(rates):
    """v_t = v_0 - sum over s < t of rate_s v4_s."""
    count = len(rates) + 1
    return np.tril(np.ones((count, count)), -1) * np.append(rates, 0.0)


def heavy_ball_integrator(rate, beta, steps):
    gap = np.subtract.outer(np.arange(steps + 1), np.arange(steps + 1))
    return np.where(gap > 0, rate * (1 - beta ** np.maximum(gap, 0)) / (1 - beta), 0.0)


def trapezoid(step, count, kernel=np.ones_like):
    """Integrates kernel(t - s) v4(s) over 0 < s < t."""
    gap = np.subtract.outer(np.arange(count + 1), np.arange(count + 1))
    weights = np.where(gap > 0, 1.0, 0.5) * (gap >= 0) * kernel(step * gap)
    weights[:, 0] *= 0.5
    weights[0, 0] = 0.0
    return step * weights


def march(integrator, spectrum, width, samples, noise, share="both"):
    """C_0 and C_1 over pairs of times; `share` says what the two predictors of a correlation have in common."""
    eigenvalues, power, multiplicity = (a[:, None, None] for a in spectrum)
    one = np.eye(len(integrator))
    everywhere = np.ones_like(one)
    g, per_width, per_sample = integrator, 1 / width, 1 / samples
    r1 = r3 = one
    # Causality makes the iteration exact after as many rounds as there are times; it is done long before.
    for _ in range(len(one) + 2):
        old = r1, r3
        h = np.linalg.inv(one + eigenvalues * (g @ r3 @ r1))
        total = np.sum(multiplicity * eigenvalues * h, axis=0) @ g
        r1 = np.linalg.inv(one + per_sample * total @ r3)
        r3 = np.linalg.inv(one + per_width * r1 @ total)
        if max(np.abs(r1 - old[0]).max(), np.abs(r3 - old[1]).max()) < 1e-15:
            break
    h = np.linalg.inv(one + eigenvalues * (g @ r3 @ r1))
    from_u2 = h @ g @ r3
    from_u4 = h @ g
    x = one - eigenvalues * (r1 @ from_u2)
    shares_features = per_width if share in ("both", "features") else 0.0
    shares_data = per_sample if share in ("both", "data") else 0.0

    def covariance(matrix, inner):
        return matrix @ inner @ np.swapaxes(matrix, -1, -2)

    mean = covariance(h, power * everywhere)
    c0, c2 = np.zeros_like(one), np.zeros_like(one)
    for _ in range(2 * len(one) + 4):
        old = c0, c2
        c1 = covariance(r1, c0 + noise * everywhere)
        c3 = covariance(r3, c2)
        driven = mean + shares_features * covariance(from_u4, c3)
        error = driven + shares_data * eigenvalues * covariance(from_u2, c1)
        c0 = np.sum(multiplicity * eigenvalues * error, axis=0)
        v2 = shares_data * eigenvalues * covariance(x, c1) + eigenvalues**2 * covariance(r1, driven)
        c2 = np.sum(multiplicity * v2, axis=0)
        if max(np.abs(c0 - old[0]).max(), np.abs(c2 - old[1]).max()) < 1e-15:
            break
    return c0, covariance(r1, c0 + noise * everywhere)


def spectrum_of(eigenvalues=EIGENVALUES, power=POWER, multiplicity=None):
    return eigenvalues, power, np.ones(len(eigenvalues)) if multiplicity is None else multiplicity


def predicted(dynamics, times, spectrum, width, samples, noise, share="both"):
    """Test and train losses of the fast road."""
    curves = linear_curves(spectral_measure(*spectrum), times, width, samples, noise, dynamics, shares=(share,))
    return curves.test[0, 0], curves.train[0, 0]


def extrapolated(rule, time, spectrum, sizes, *, coarsest, levels, share="both"):
    """Richardson extrapolation in the square of the step; also the last change, which bounds what is left."""
    table = []
    for level in range(levels):
        count = coarsest * 2**level
        c0, c1 = march(rule(time / count, count), spectrum, *sizes, share=share)
        row = [np.array([c0[-1, -1], c1[-1, -1]])]
        for order in range(1, level + 1):
            row.append(row[-1] + (row[-1] - table[-1][order - 1]) / (4**order - 1))
        table.append(row)
    return table[-1][-1], np.abs(table[-1][-1] - table[-1][-2]).max()


CASES = [
    pytest.param(spectrum_of(), WIDTH, SAMPLES, NOISE, id="both finite"),
    pytest.param(spectrum_of(), np.inf, SAMPLES, NOISE, id="infinite width"),
    pytest.param(spectrum_of(), WIDTH, np.inf, 0.0, id="infinite samples"),
    pytest.param(spectrum_of(), 22.0, 22.0, 0.0, id="equal sizes"),
    pytest.param(spectrum_of(*GROUPS), 7.5, 4.2, 0.3, id="groups of modes"),
]


@pytest.mark.parametrize(("spectrum", "width", "samples", "noise"), CASES)
@pytest.mark.parametrize("share_of_edge", [0.2, 0.9])
def test_gradient_descent(spectrum, width, samples, noise, share_of_edge):
    """Every step is a point of the grid: no discretization error on either road; near the edge the filters oscillate."""
    rate = share_of_edge * float(max_stable_lr(spectral_measure(*spectrum), width, samples))
    steps = np.arange(41)
    c0, c1 = march(step_integrator(np.full(40, rate)), spectrum, width, samples, noise)
    test, train = predicted(Descent(rate), steps, spectrum, width, samples, noise)
    np.testing.assert_allclose(test, np.diag(c0), rtol=ROUNDING)
    np.testing.assert_allclose(train, np.diag(c1), rtol=ROUNDING)


@pytest.mark.parametrize("schedule", [Schedule("cosine", steps=40, warmup=4), Schedule("wsd", steps=40, decay=15)])
def test_scheduled_descent(schedule):
    rates = 0.5 * schedule.factors(50)
    spectrum = spectrum_of()
    c0, c1 = march(step_integrator(rates), spectrum, WIDTH, SAMPLES, NOISE)
    steps = np.array([0, 1, 5, 20, 40, 50])
    test, train = predicted(Descent(rates), steps, spectrum, WIDTH, SAMPLES, NOISE)
    np.testing.assert_allclose(test, np.diag(c0)[steps], rtol=ROUNDING)
    np.testing.assert_allclose(train, np.diag(c1)[steps], rtol=ROUNDING)


@pytest.mark.parametrize("beta", [0.3, 0.6, 0.9])
@pytest.mark.parametrize(("width", "samples"), [(WIDTH, SAMPLES), (np.inf, SAMPLES), (WIDTH, np.inf)])
def test_heavy_ball(beta, width, samples):
    """At every step, not only at late ones."""
    spectrum = spectrum_of()
    steps = np.array([0, 1, 2, 3, 7, 20, 50])
    c0, c1 = march(heavy_ball_integrator(0.2, beta, 50), spectrum, width, samples, NOISE)
    test, train = predicted(HeavyBall(0.2, beta), steps, spectrum, width, samples, NOISE)
    np.testing.assert_allclose(test, np.diag(c0)[steps], rtol=ROUNDING)
    np.testing.assert_allclose(train, np.diag(c1)[steps], rtol=ROUNDING)


@pytest.mark.parametrize(("spectrum", "width", "samples", "noise"), CASES)
@pytest.mark.parametrize("time", [0.5, 2.0])
def test_gradient_flow(spectrum, width, samples, noise, time):
    value, left = extrapolated(trapezoid, time, spectrum, (width, samples, noise), coarsest=4, levels=5)
    assert left < 1e-10
    test, train = predicted(Flow(), [time], spectrum, width, samples, noise)
    np.testing.assert_allclose([test[0], train[0]], value, rtol=2e-10)


@pytest.mark.long
@pytest.mark.parametrize(("spectrum", "width", "samples", "noise"), CASES)
def test_gradient_flow_later(spectrum, width, samples, noise):
    value, left = extrapolated(trapezoid, 20.0, spectrum, (width, samples, noise), coarsest=16, levels=4)
    assert left < 1e-8
    test, train = predicted(Flow(), [20.0], spectrum, width, samples, noise)
    # What is left of the grid's error is below its last change; the theory's floor is relative to the start.
    np.testing.assert_allclose([test[0], train[0]], value, rtol=2e-10, atol=left + 1e-12)


@pytest.mark.parametrize(("beta", "time"), [(0.5, 1.0), (0.5, 4.0), (2.0, 1.0), (2.0, 6.0)])
def test_momentum_flow(beta, time):
    """Also early, while the oscillations live."""

    def rule(step, count):
        return trapezoid(step, count, lambda gap: -np.expm1(-gap / beta))

    spectrum = spectrum_of()
    value, left = extrapolated(rule, time, spectrum, (WIDTH, SAMPLES, NOISE), coarsest=8, levels=5)
    assert left < 1e-10
    test, train = predicted(InertialFlow(beta), [time], spectrum, WIDTH, SAMPLES, NOISE)
    np.testing.assert_allclose([test[0], train[0]], value, rtol=2e-10)


@pytest.mark.parametrize("share", ["data", "features", "none"])
def test_predictors_that_share_something(share):
    """Correlations of two predictors: the parts of the bias and variance decomposition, and of ensembles."""
    spectrum = spectrum_of()
    steps = np.array([0, 1, 4, 15, 40])
    c0, c1 = march(step_integrator(np.full(40, 0.4)), spectrum, WIDTH, SAMPLES, NOISE, share=share)
    test, train = predicted(Descent(0.4), steps, spectrum, WIDTH, SAMPLES, NOISE, share=share)
    np.testing.assert_allclose(test, np.diag(c0)[steps], rtol=ROUNDING)
    if share == "data":
        np.testing.assert_allclose(train, np.diag(c1)[steps], rtol=ROUNDING)


def test_the_road_itself():
    """The grid's own identities: start, infinite sizes, no shared randomness, and the reference numbers of the theory page."""
    spectrum = spectrum_of()
    grid = step_integrator(np.full(12, 0.4))
    c0, c1 = march(grid, spectrum, WIDTH, SAMPLES, NOISE)
    np.testing.assert_allclose([c0[0, 0], c1[0, 0] - NOISE], np.sum(EIGENVALUES * POWER), rtol=1e-14)
    alone, _ = march(grid, spectrum, np.inf, np.inf, 0.0)
    decay = (1 - 0.4 * EIGENVALUES) ** np.arange(13)[:, None]
    np.testing.assert_allclose(np.diag(alone), decay**2 @ (EIGENVALUES * POWER), rtol=1e-13)
    # With nothing in common and no noise, swapping width and samples changes nothing.
    here, _ = march(grid, spectrum, WIDTH, SAMPLES, 0.0, share="none")
    there, _ = march(grid, spectrum, SAMPLES, WIDTH, 0.0, share="none")
    np.testing.assert_allclose(here, there, rtol=1e-12)
    for time, test, train in ((0.5, 1.37329, 1.33988), (2.0, 0.92291, 0.73918), (8.0, 0.78793, 0.43572)):
        value, _ = extrapolated(trapezoid, time, spectrum, (WIDTH, SAMPLES, NOISE), coarsest=8, levels=4)
        np.testing.assert_allclose(value, [test, train], atol=5.1e-6)  # printed to five decimals
