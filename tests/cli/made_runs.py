"""Runs that follow a law, for the tests of this folder."""

import numpy as np


def chinchilla_runs(noise=0.003, seed=0):
    """Twenty-five runs of a Chinchilla law with noise: columns by name."""
    rng = np.random.default_rng(seed)
    params = np.repeat([1e7, 3e7, 1e8, 3e8, 1e9], 5)
    tokens = params * np.tile([4.0, 10.0, 25.0, 60.0, 150.0], 5)
    loss = (1.8 + 400.0 / params**0.34 + 2000.0 / tokens**0.36) * np.exp(noise * rng.standard_normal(25))
    return {"params": params, "tokens": tokens, "loss": loss}
