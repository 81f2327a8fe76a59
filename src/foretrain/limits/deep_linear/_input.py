r"""The first site of the march: from the kernel of the weights to the error, and what the data make of it.

At step $n$ the row $\mathcal K_n$ is known. The rows of the residual $v$ (DL.8), of the errors of the samples (DL.10) and of
the direction $u$ that drives the first layer (DL.9) follow. What is stored depends on the data:

- `wide`: the population seen by infinitely wide layers; the mean residual of every group, a vector.
- `population`: one matrix $H_g$ for every group.
- `fresh`: new samples at every step; $\mathcal K$ as well, and sums over the groups.
- `reused`: the same samples at every step; also the response and the covariance of their errors.
"""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from foretrain.limits.deep_linear._rows import Groups, Rows, Sizes, State, Step

DATA = ("wide", "population", "fresh", "reused")
LOSSES = ("test_loss", "train_loss", "bias", "variance_width", "variance_samples")


def input_shapes(data: str, groups: int) -> dict[str, str]:
    """Names of the matrices of this site and their dimensions: `t` for time, `ss` for symmetric ones, `g` for groups."""
    shapes = {"mean": "tg", "Cu": "ss"}
    if data != "wide":
        shapes["H"] = "tgt"
    if data in ("fresh", "reused"):
        shapes |= {"K": "tt", "Y": "ss"}
    if data == "fresh":
        shapes |= {"Xi": "t"}
    if data == "reused":
        shapes |= {"Rd": "tt", "Cd": "ss", "Cv": "ss", "J": "tt"}
    if groups > 1 and data == "reused":
        shapes |= {"S1": "tt", "S2": "tt", "Dv": "ss"}
    return shapes


def input_row(
    step: Step, kernel: Float[Array, " time"], backward: Any, state: State, sizes: Sizes, groups: Groups, data: str
) -> tuple[Rows, Float[Array, " time"], Float[Array, " loss"]]:
    r"""The rows of the site.

    Args:
        step: Where the march is.
        kernel: $\mathcal K_n$.
        backward: $C_g^1$ before the step, and its new row.
        state: All matrices before the step.
        sizes: Numbers of the problem.
        groups: The spectrum.
        data: One of `DATA`.

    Returns:
        The new rows, that of the response $R_{uv}$, and the `LOSSES`.
    """
    site = {"wide": _wide, "population": _population, "fresh": _fresh, "reused": _reused}[data]
    return site(step, kernel, backward, state, sizes, groups)


def _wide(step, kernel, backward, state, sizes, groups):
    lam, means = groups.eigenvalues, state["mean"]
    mean = (1.0 - lam * step.times_past(kernel, means)) / (1.0 + lam * step.now(kernel))
    cu = step.meets(groups.signal * lam * mean, means, mean)
    test, seen = groups.test_signal @ mean**2, groups.signal @ mean**2
    zero = jnp.zeros_like(test)
    losses = jnp.stack([test, seen + sizes.noise, test, zero, zero])
    return {"mean": mean, "Cu": cu}, jnp.zeros_like(kernel), losses


def _residual(step, memory, state, groups):
    r"""Rows of all $H_g=(1+\lambda_gM)^{-1}$ and their sums, given the row of $M$."""
    lam = groups.eigenvalues[:, None]
    rows = (step.here[None] - lam * step.times_past(memory, state["H"])) / (1.0 + lam * step.now(memory))
    return rows, rows.sum(-1)


def _losses(mean, width, samples, rows, groups):
    """Test loss by origin, and the loss on fresh inputs of training."""
    own = [jnp.sum(part * rows, -1) for part in (width, samples)]
    parts = [groups.test_signal @ mean**2, *(groups.test_trace @ part for part in own)]
    return parts, groups.signal @ mean**2 + groups.trace @ (own[0] + own[1])


def _covariances(step, mean, both, rows, state, groups):
    r"""Rows of $C_v$ and of the same sum with one more $\lambda$, in one pass over memory."""
    lam, cubes = groups.eigenvalues, state["H"]
    if len(lam) == 1:
        cv = step.meets(groups.signal * mean, state["mean"], mean) + step.meets(
            groups.trace[:, None] * both, cubes, rows
        )
        return cv, lam[0] * cv
    signal = jnp.stack([groups.signal * mean, groups.signal * lam * mean])
    left = jnp.stack([groups.trace, groups.trace * lam])[:, :, None] * both[None]
    past = state["mean"] @ signal.T + cubes.reshape(cubes.shape[0], -1) @ left.reshape(2, -1).T
    found = step.joined(past.T, signal @ mean + jnp.sum(left * rows[None], (1, 2)))
    return found[0], found[1]


def _population(step, kernel, backward, state, sizes, groups):
    lam = groups.eigenvalues
    rows, mean = _residual(step, kernel, state, groups)
    width = sizes.width * step.times_symmetric(rows, *backward)
    cu = step.meets(groups.signal * lam * mean, state["mean"], mean)
    cu = cu + step.meets((groups.trace * lam)[:, None] * width, state["H"], rows)
    parts, seen = _losses(mean, width, jnp.zeros_like(width), rows, groups)
    losses = jnp.stack([sum(parts), seen + sizes.noise, *parts])
    return {"H": rows, "mean": mean, "Cu": cu}, groups.trace @ rows, losses


def _noisy(step, memory, noise_row, backward, state, sizes, groups):
    r"""The residual where samples add noise: `noise_row` is the row of $\mathcal K\Xi\mathcal K^\top$."""
    rows, mean = _residual(step, memory, state, groups)
    width = sizes.width * step.times_symmetric(rows, *backward)
    samples = groups.eigenvalues[:, None] * step.times_symmetric(rows, state["Y"], noise_row)
    cv, dv = _covariances(step, mean, width + samples, rows, state, groups)
    parts, seen = _losses(mean, width, samples, rows, groups)
    return {"H": rows, "mean": mean, "Y": noise_row}, cv, dv, parts, seen


def _fresh(step, kernel, backward, state, sizes, groups):
    noise_row = step.meets(kernel * state["Xi"], state["K"], kernel)
    new, _, dv, parts, seen = _noisy(step, kernel, noise_row, backward, state, sizes, groups)
    xi = sizes.samples * (seen + sizes.noise)
    first, second = groups.trace @ new["H"], (groups.trace * groups.eigenvalues) @ new["H"]
    # The noise of this step reaches the residual of later ones only.
    moved = step.times(second, state["K"], kernel)
    cu = dv - moved * state["Xi"] + groups.trace.sum() * xi * step.here
    losses = jnp.stack([sum(parts), seen + sizes.noise, *parts])
    return new | {"K": kernel, "Xi": xi, "Cu": cu}, first, losses


def _reused(step, kernel, backward, state, sizes, groups):
    inverse, lam = sizes.samples, groups.eigenvalues
    memory = kernel @ state["Rd"]
    noise_row = inverse * step.meets(kernel @ state["Cd"], state["K"], kernel)
    new, cv, dv, parts, _ = _noisy(step, memory, noise_row, backward, state, sizes, groups)
    first, second = groups.trace @ new["H"], (groups.trace * lam) @ new["H"]
    # The samples' own response, and the covariance of their errors.
    feedback = inverse * step.times(first, state["K"], kernel)
    response = (step.here - step.times_past(feedback, state["Rd"])) / (1.0 + step.now(feedback))
    weighed = step.times_symmetric(response, state["Cv"], cv)
    cd = step.meets(weighed + sizes.noise * response.sum(), state["Rd"], response)
    # The direction u, from its four parts.
    if len(lam) == 1:
        seen_by = step.times(response, state["H"], new["H"])[0]
        ruv, twice, moved = groups.trace[0] * seen_by, (groups.trace * lam)[0] * seen_by, lam[0] * weighed
    else:
        new = new | {"S1": first, "S2": second, "Dv": dv}
        ruv, twice = step.times(response, state["S1"], first), step.times(response, state["S2"], second)
        moved = step.times_symmetric(response, state["Dv"], dv)
    j = step.times(twice, state["K"], kernel)
    cross = step.times_symmetric(j, state["Cd"], cd) + step.meets(cd, state["J"], j)
    cu = step.meets(moved, state["Rd"], response) - inverse * (cross - groups.trace.sum() * cd)
    losses = jnp.stack([sum(parts), step.now(cd), *parts])
    return new | {"K": kernel, "Rd": response, "Cv": cv, "Cd": cd, "J": j, "Cu": cu}, ruv, losses
