"""`InitialKernel`: the tangent kernel of a declared network at its random start, which says how it learns if it stays lazy."""

import contextlib
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from foretrain._declaration import WrongKey
from foretrain.problems import Problem
from foretrain.training._network import build_network
from foretrain.training._network_data import network_data

_BLOCK = 32  # rows whose whole Gram matrix is formed for its diagonal


class InitialKernel:
    r"""Tangent kernel of one network at its start, with the rate of every tensor, as `run_network` would train it.

    $$K(x,x')=\sum_o\sum_pc_p\,\partial_pf_o(x)\,\partial_pf_o(x')$$

    with $c_p$ the factor of the parameterization on the learning rate, so that gradient descent on
    $\frac1{2P}\sum_\mu|y_\mu-f(x_\mu)|^2$ at learning rate $\eta$ moves a single output as
    $f\leftarrow f-\frac{\eta}{P}K(f-y)$ as long as the network stays lazy. It is a kernel like `NTK`: pass it to
    `foretrain.kernels.measure_spectrum` for the capacity and the source of a task as this network sees it.

    Several outputs are summed, which describes them if they share one kernel (as in wide networks).

    Args:
        problem: A network and its training by `sgd`, on rows of data, without axes.
        seed: The seed that `run_network` and `train` would give the network.

    Raises:
        WrongKey: An optimizer other than `sgd`, whose updates no kernel describes.
        UnsupportedProblem: Not a network on rows of data.

    Example:
        >>> from foretrain.problems import MLP, NetworkTraining, Problem
        >>> from foretrain.tasks import Circle
        >>> from foretrain.training import InitialKernel
        >>> task = Circle(exponent=1.0, points=32)
        >>> problem = Problem(task, MLP(width=64, depth=1, bias=True), NetworkTraining(learning_rate=0.5))
        >>> InitialKernel(problem, seed=0)(task.load().inputs).shape
        (32, 32)
    """

    def __init__(self, problem: Problem, *, seed: int = 0):
        training: Any = problem.training
        if getattr(training, "optimizer", "sgd") != "sgd":
            raise WrongKey(
                "InitialKernel",
                "optimizer",
                f"expected 'sgd', whose steps a tangent kernel describes, got {training.optimizer!r}",
            )
        data = network_data(problem)
        self.dtype = str(training.dtype)
        with self._precision():
            network, parameterization = build_network(
                problem.model,  # type: ignore[arg-type]
                training,
                data.inputs_size,
                data.outputs,
                key=jax.random.key(seed),
                dtype=jnp.dtype(self.dtype),
                **data.facts,
            )
        self.params, static = eqx.partition(network, eqx.is_inexact_array)
        self.rates = parameterization.like(self.params).lr

        def apply(params: Any, x: Any) -> Any:
            return jax.vmap(eqx.combine(params, static))(x)

        self.apply = apply

    def __call__(
        self, x: Float[np.ndarray, "rows features"], y: Float[np.ndarray, "columns features"] | None = None
    ) -> Float[np.ndarray, "rows columns"]:
        """The kernel between the rows of `x` and those of `y` (of `x` itself when left out), computed in the network's precision.

        Args:
            x: Inputs, one a row.
            y: Other inputs.
        """
        from foretrain.kernels import empirical_ntk

        given = None if y is None else np.asarray(y, self.dtype)
        found = empirical_ntk(
            self.apply, self.params, np.asarray(x, self.dtype), given, learning_rates=self.rates, dtype=self.dtype
        )
        return np.asarray(found, np.float64)

    def diagonal(self, x: Float[np.ndarray, "rows features"]) -> Float[np.ndarray, " rows"]:
        """K(x, x) of every row.

        Args:
            x: Inputs, one a row.
        """
        blocks = [np.diagonal(self(x[start : start + _BLOCK])) for start in range(0, len(x), _BLOCK)]
        return np.concatenate(blocks)

    def _precision(self) -> Any:
        return jax.enable_x64(True) if self.dtype == "float64" else contextlib.nullcontext()
