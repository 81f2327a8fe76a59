"""The equations of `docs/theory/deep-linear.md` as dense linear algebra, solved by iteration: the second road of the tests.

Responses are as they are, not divided by the richness; nothing is marched. Windows grow by a few steps, each starting from
the solution of the smaller one, and are iterated until nothing moves.
"""

import numpy as np


def lower(matrix):
    return np.tril(matrix, -1)


def grow(matrix, size):
    """The solution of a smaller window in a larger one; new times start as copies of the last."""
    old = matrix.shape[0]
    if old == 0:
        return np.zeros((size, size))
    index = np.minimum(np.arange(size), old - 1)
    return matrix[np.ix_(index, index)]


def solve(
    depth,
    steps,
    rate,
    richness,
    ratio,
    samples=np.inf,
    noise=0.0,
    eigenvalues=(1.0,),
    shares=(1.0,),
    powers=(1.0,),
    fresh=False,
    weights=None,
    branch=None,
    window=4,
    tolerance=1e-14,
):
    """Covariances of v and of the samples' errors over all steps, and the covariances and responses of all layers.

    `noise` is a variance, `weights` the matrix E / eta, `branch` the scale of the branches of a residual network.
    """
    size = steps + 1
    kernel = np.tril(np.ones((size, size)), -1) if weights is None else weights
    lam, mu, power = (np.asarray(part, float) for part in (eigenvalues, shares, powers))
    names = ["Cu", "Ruv", *(f"{n}{i}" for i in range(1, depth + 1) for n in ("Ch", "Cg", "Rh", "Rg"))]
    state = {name: np.zeros((0, 0)) for name in names}
    found = {}
    for stop in [*range(window, size, window), size]:
        state = {name: grow(matrix, stop) for name, matrix in state.items()}
        weight = rate * kernel[:stop, :stop]
        for _ in range(20000):
            before = {name: matrix.copy() for name, matrix in state.items()}
            hidden = _plain if branch is None else _branches
            state |= hidden(state, depth, weight, richness, ratio, branch)
            found = _inputs(state, weight, richness, ratio, samples, noise, lam, mu, power, fresh)
            state |= {"Cu": found["Cu"], "Ruv": found["Ruv"]}
            if max(np.max(np.abs(state[n] - before[n]) / (1e-3 + np.abs(state[n]))) for n in names) < tolerance:
                break
        else:
            raise RuntimeError(f"no fixed point in a window of {stop}")
    return found | state


def _plain(state, depth, weight, richness, ratio, branch):
    size = weight.shape[0]
    one, new = np.eye(size), {}
    for layer in range(1, depth + 1):
        below = state["Cu"] if layer == 1 else state[f"Ch{layer - 1}"]
        above = np.ones((size, size)) if layer == depth else state[f"Cg{layer + 1}"]
        if layer == 1:
            p = -state["Ruv"] / (richness * ratio) + richness * weight * state["Cu"]
        else:
            p = state[f"Rh{layer - 1}"] + richness * weight * below
        q = richness * weight * above + (0.0 if layer == depth else state[f"Rg{layer + 1}"])
        gh, gg = np.linalg.inv(one - p @ q), np.linalg.inv(one - q @ p)
        new[f"Ch{layer}"] = gh @ (below + p @ above @ p.T) @ gh.T
        new[f"Cg{layer}"] = gg @ (above + q @ below @ q.T) @ gg.T
        new[f"Rh{layer}"], new[f"Rg{layer}"] = gh @ p, gg @ q
    return new


def _branches(state, depth, weight, richness, ratio, b):
    """All layers of a residual network as one linear system for the fields, given their sources."""
    size = weight.shape[0]
    full = 2 * depth * size
    system, source, covariance = np.eye(full), np.zeros((full, full)), np.zeros((full, full))
    one = np.eye(size)

    def h(layer):
        return slice((layer - 1) * size, layer * size)

    def g(layer):
        return slice((depth + layer - 1) * size, (depth + layer) * size)

    for layer in range(1, depth + 1):
        below = state["Cu"] if layer == 1 else state[f"Ch{layer - 1}"]
        above = np.ones((size, size)) if layer == depth else state[f"Cg{layer + 1}"]
        covariance[h(layer), h(layer)], covariance[g(layer), g(layer)] = below, above
        if layer == 1:
            p = -state["Ruv"] / (richness * ratio) + richness * weight * below
            source[h(1), h(1)] = one
        else:
            p = b * (state[f"Rh{layer - 1}"] + b * richness * weight * below)
            source[h(layer), h(layer)] = b * one
            system[h(layer), h(layer - 1)] -= one
        system[h(layer), g(layer)] -= p
        if layer == depth:
            q = richness * weight
            source[g(layer), g(layer)] = one
        else:
            q = b * (state[f"Rg{layer + 1}"] + b * richness * weight * above)
            source[g(layer), g(layer)] = b * one
            system[g(layer), g(layer + 1)] -= one
        system[g(layer), h(layer)] -= q
    green = np.linalg.solve(system, source)
    all_covariances = green @ covariance @ green.T
    new = {}
    for layer in range(1, depth + 1):
        new[f"Ch{layer}"] = all_covariances[h(layer), h(layer)]
        new[f"Cg{layer}"] = all_covariances[g(layer), g(layer)]
        new[f"Rh{layer}"], new[f"Rg{layer}"] = green[h(layer), g(layer)], green[g(layer), h(layer)]
    return new


def _inputs(state, weight, richness, ratio, samples, noise, lam, mu, power, fresh):
    size = weight.shape[0]
    one, ones = np.eye(size), np.ones((size, size))
    k = state["Rg1"] / richness + weight * state["Cg1"]
    response, xi = one, np.zeros((size, size))
    for _ in range(3 * size + 5):
        before = response, xi
        cv, cu, ruv, rvu, bias = (np.zeros((size, size)) for _ in range(5))
        for eigenvalue, share, w2 in zip(lam, mu, power, strict=True):
            x = w2 * ones + state["Cg1"] / (richness**2 * ratio)
            hk = np.linalg.inv(one + eigenvalue * k @ response)
            fk = eigenvalue * response @ hk
            left = one - fk @ k
            cv += share * eigenvalue * hk @ (x + eigenvalue * k @ xi @ k.T) @ hk.T
            bias += share * eigenvalue * w2 * hk @ ones @ hk.T
            cu += share * (fk @ x @ fk.T + eigenvalue * left @ xi @ left.T)
            ruv += share * fk
            rvu -= share * eigenvalue * hk @ k
        if np.isinf(samples):
            errors = cv + noise * ones
            break
        if fresh:
            errors, xi = cv + noise * ones, np.diag(np.diag(cv) + noise) / samples
        else:
            response = np.linalg.inv(one - rvu / samples)
            errors = response @ (cv + noise * ones) @ response.T
            xi = errors / samples
        if np.allclose(before[0], response, 1e-15, 1e-16) and np.allclose(before[1], xi, 1e-15, 1e-16):
            break
    return {"Cv": cv, "Cd": errors, "Cu": cu, "Ruv": ruv, "bias": bias, "K": k, "Rd": response}
