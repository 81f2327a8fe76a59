r"""The compiled program of one shape: the loop over steps, with the gather of batches inside it, and the evaluation of losses.

Everything that only changes numbers (rates, momentum, decay, epsilon, schedules, data, weights) is an argument, so that one program serves
every run of a shape. Runs are laid out as (seeds, points of numeric axes): points of a seed share its batches and start.
"""

import dataclasses
import functools
import math
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int32

from foretrain.networks._low_precision import input_grams, quantize_activations, quantize_weights
from foretrain.parameterization import Parameterization, make_optimizer
from foretrain.problems import AbstractNetwork, NetworkTraining, Precision
from foretrain.training._network import build_network, parameterize_network

EXAMPLES = "examples"
"""Name of the mapped axis of examples, over which activations share a scale."""

NUMERIC = ("learning_rate", "weight_decay", "momentum", "epsilon")
"""Axes of a training that only change numbers."""

TOP = "weight_top"
"""Largest level of weights that are rounded to integers: an argument too, so that one program serves all widths."""


def compiled_precision(training: NetworkTraining) -> Precision | None:
    """The precision as far as a program depends on it: `None` for full, and one width that stands for all integers.

    Args:
        training: A training without axes.
    """
    found = training.precision
    if found is None or found.is_full:
        return None
    same: dict[str, Any] = {"post": (), "post_method": "nearest"}
    return found.replace(**same, **({"weights": 8} if isinstance(found.weights, int) else {}))


@dataclasses.dataclass(frozen=True)
class Shape:
    """What a program depends on.

    Args:
        model: A network without axes.
        training: Its training; the values of `traced` do not matter.
        traced: Numbers that are arguments of the program.
        scheduled: Whether there is a schedule.
        loss: As for `NetworkData`.
        classes: As for `NetworkData`.
        inputs: Dimension of an input, or size of the vocabulary.
        outputs: Number of outputs.
        context: Length of a window of tokens, if any.
        single_threaded: Whether the program may use one thread only.
    """

    model: AbstractNetwork
    training: NetworkTraining
    traced: tuple[str, ...]
    scheduled: bool
    loss: str
    classes: str | None
    inputs: int
    outputs: int
    context: int | None
    single_threaded: bool = False

    @property
    def dtype(self) -> Any:
        """Of weights and data."""
        return jnp.dtype(self.training.dtype)


@functools.lru_cache(maxsize=64)
def program_of(shape: Shape) -> "Program":
    """The program of a shape; kept, as sizes come back for every seed and rate.

    Args:
        shape: What it depends on.
    """
    return Program(shape)


class Program:
    """The compiled functions of one shape. Call them in the scope of its precision.

    Args:
        shape: What it depends on.
    """

    def __init__(self, shape: Shape):
        self.shape = shape
        self.lock = threading.Lock()
        facts = {} if shape.context is None else {"context": shape.context}
        make = functools.partial(
            build_network, shape.model, shape.training, shape.inputs, shape.outputs, dtype=shape.dtype, **facts
        )
        with jax.enable_x64(shape.training.dtype == "float64"):
            template = eqx.filter_eval_shape(lambda key: make(key=key)[0], jax.random.key(0))
        parameterization = parameterize_network(shape.model, shape.training, shape.inputs, shape.outputs, **facts)
        trained = jax.tree.map(lambda leaf: jnp.issubdtype(leaf.dtype, jnp.inexact), template)
        params, self._static = eqx.partition(template, trained)
        self._params = params
        self._parameterization = parameterization.like(params)
        self.parameters = sum(leaf.size for leaf in jax.tree.leaves(params))
        self.params_no_embed = self.parameters - _embedded(parameterization, shape.context is not None)
        options = {"xla_cpu_multi_thread_eigen": False} if shape.single_threaded else None
        compiled = functools.partial(jax.jit, compiler_options=options)
        self.start: Callable[[Any], Any] = compiled(lambda key: eqx.partition(make(key=key)[0], trained)[0])
        self.prepare: Callable[..., Any] = compiled(self._prepare)
        self.advance: Callable[..., Any] = compiled(self._advance, donate_argnums=0)
        self.evaluate: Callable[..., Any] = compiled(self._evaluate, static_argnames="deployed")
        self.round_weights: Callable[..., Any] = compiled(self._round_weights)
        self.grams: Callable[..., Any] = compiled(self._grams)

    def forward(self, batch: int) -> Any:
        """The traced outputs of a batch.

        Args:
            batch: How many examples.
        """
        shape = self.shape
        one, kind = (shape.inputs, shape.dtype) if shape.context is None else (shape.context, jnp.dtype("int32"))
        with jax.enable_x64(shape.training.dtype == "float64"):
            examples = jax.ShapeDtypeStruct((batch, one), kind)
            return jax.make_jaxpr(lambda params, x: self._outputs(params, None, {TOP: 127.0}, x))(
                self._params, examples
            ).jaxpr

    def _optimizer(
        self, hyper: Mapping[str, Array], factors: Array | None, offset: Array | int = 0
    ) -> optax.GradientTransformation:
        training = self.shape.training
        numbers = {name: getattr(training, name) for name in NUMERIC} | dict(hyper)
        return make_optimizer(
            self._parameterization,
            numbers["learning_rate"],
            momentum=numbers["momentum"],
            second_momentum=training.second_momentum,
            eps=numbers["epsilon"],
            weight_decay=numbers["weight_decay"],
            schedule=None if factors is None else lambda step: factors[step - offset],
            clip_norm=training.clip_norm,
        )

    def _network(self, params: Any, numbers: Mapping[str, Any], deployed: bool = False) -> Any:
        """With rounded weights (unless they were already, for deployment), activations, keys and values where declared."""
        precision = self.shape.training.precision
        if precision is None:
            return eqx.combine(params, self._static)
        if precision.weights != math.inf and not deployed:
            params = quantize_weights(params, precision.weights, top=numbers.get(TOP))  # type: ignore[arg-type]
        network = eqx.combine(params, self._static)
        return quantize_activations(network, precision.activations, precision.kv, EXAMPLES)  # type: ignore[arg-type]

    def _outputs(
        self, params: Any, start: Any, numbers: Mapping[str, Any], examples: Array, deployed: bool = False
    ) -> Array:
        """Of a batch; minus those of the start when that is given."""
        found = _over_examples(self._network(params, numbers, deployed))(examples)
        return found if start is None else found - _over_examples(self._network(start, numbers))(examples)

    def _gather(self, data: Mapping[str, Array], rows: Int32[Array, " batch"]) -> tuple[Array, Array]:
        if self.shape.context is None:
            return data["inputs"][rows], data["targets"][rows]
        windows = data["inputs"][rows[:, None] + jnp.arange(self.shape.context + 1, dtype=rows.dtype)[None]]
        return windows[:, :-1], windows[:, 1:]

    def _losses(self, outputs: Array, targets: Array) -> Float[Array, " batch"]:
        """The loss of every example, in the convention of what is reported."""
        loss = self.shape.loss
        if loss == "mse":
            return jnp.sum((targets - outputs) ** 2, axis=-1)
        if loss == "signs":
            return jax.nn.softplus(-targets * outputs)[:, 0]
        each = optax.softmax_cross_entropy_with_integer_labels(outputs, targets)
        return jnp.mean(each, axis=-1) if loss == "tokens" else each

    def _right(self, outputs: Array, targets: Array) -> Float[Array, " batch"]:
        classes = self.shape.classes
        if classes == "signs":
            return (outputs * targets > 0)[:, 0].astype(outputs.dtype)
        labels = jnp.argmax(targets, axis=-1) if self.shape.loss == "mse" else targets
        right = (jnp.argmax(outputs, axis=-1) == labels).astype(outputs.dtype)
        return jnp.mean(right, axis=-1) if classes == "tokens" else right

    def _prepare(self, starts: Any, hyper: Mapping[str, Float[Array, " points"]]) -> Any:
        """Weights and states of the optimizer for every run, from the start of every seed."""

        def one(start: Any, numbers: Any) -> Any:
            # The state does not depend on the schedule, which only has to be there.
            factors = jnp.ones(1, self.shape.dtype) if self.shape.scheduled else None
            return start, self._optimizer(numbers, factors).init(start)

        return _over_runs(one, (starts, hyper), (0, None), (None, 0))

    def _advance(
        self,
        state: Any,
        starts: Any,
        hyper: Mapping[str, Float[Array, " points"]],
        factors: Float[Array, " block"] | None,
        data: Mapping[str, Array],
        table: Int32[Array, "seeds block batch"],
        offset: Int32[Array, ""],
        first: Int32[Array, ""],
        last: Int32[Array, ""],
    ) -> Any:
        """Every run `last - first` steps further, with the batches and factors at those places; `offset` steps came before them."""
        scale = 0.5 if self.shape.loss == "mse" else 1.0
        single = table.shape[1] == 1

        def one(state: Any, start: Any, numbers: Any, own: Array) -> Any:
            optimizer = self._optimizer(numbers, factors, offset)

            def objective(params: Any, examples: Array, targets: Array) -> Array:
                return scale * jnp.mean(self._losses(self._outputs(params, start, numbers, examples), targets))

            def step(s: Array, state: Any) -> Any:
                params, memory = state
                examples, targets = self._gather(data, own[0] if single else own[s])
                gradients = jax.grad(objective)(params, examples, targets)
                updates, memory = optimizer.update(gradients, memory, params)
                return optax.apply_updates(params, updates), memory

            return jax.lax.fori_loop(first, last, step, state)

        return _over_runs(one, (state, starts, hyper, table), (0, 0, None, 0), (0, None, 0, None))

    def _evaluate(
        self,
        params: Any,
        starts: Any,
        hyper: Mapping[str, Float[Array, " points"]],
        data: Mapping[str, Array],
        rows: Int32[Array, "seeds blocks size"],
        *,
        deployed: bool = False,
    ) -> Float[Array, "seeds points blocks 2 size"]:
        """Loss and accuracy of every example, block by block; `deployed` weights are taken as they are."""

        def one(params: Any, start: Any, numbers: Any, own: Array) -> Array:
            def block(some: Array) -> Array:
                examples, targets = self._gather(data, some)
                outputs = self._outputs(params, start, numbers, examples, deployed)
                losses = self._losses(outputs, targets)
                right = jnp.zeros_like(losses) if self.shape.classes is None else self._right(outputs, targets)
                return jnp.stack([losses, right])

            return jax.lax.map(block, own)

        return _over_runs(one, (params, starts, hyper, rows), (0, 0, None, 0), (0, None, 0, None))

    def _round_weights(
        self, params: Any, hyper: Mapping[str, Float[Array, " points"]], top: Float[Array, ""] | None
    ) -> Any:
        """Weights as the network computes with them, then rounded to the nearest of `2 top + 1` levels unless that is `None`."""

        def one(params: Any, numbers: Any) -> Any:
            precision = self.shape.training.precision
            if precision is not None and precision.weights != math.inf:
                params = quantize_weights(params, precision.weights, top=numbers.get(TOP))  # type: ignore[arg-type]
            return params if top is None else quantize_weights(params, 8, top=top)

        return _over_runs(one, (params, hyper), (0, None), (0, 0))

    def _grams(
        self, params: Any, data: Mapping[str, Array], rows: Int32[Array, "seeds blocks size"]
    ) -> list[Float[Array, "seeds points *stack in in"]]:
        """Second moments of what enters every linear map with weights as they are."""

        def one(params: Any, own: Array) -> Any:
            network = self._network(params, {}, deployed=True)

            def block(some: Array) -> Any:
                return input_grams(lambda net, x: _over_examples(net)(x), network, self._gather(data, some)[0])

            return [jnp.sum(part, axis=0) for part in jax.lax.map(block, own)]

        return _over_runs(one, (params, rows), (0, 0), (0, None))


def _over_examples(network: Any) -> Callable:
    return jax.vmap(network, axis_name=EXAMPLES)


def _embedded(parameterization: Parameterization, tokens: bool) -> int:
    """Numbers in tables of tokens and positions and, on tokens, in the readout."""
    roles = {"embedding", "tied", "output", "output_bias"} if tokens else {"embedding"}
    tensors = [rule.tensor for rule in parameterization.tensors.values()]
    return sum(math.prod(tensor.shape) for tensor in tensors if tensor.role in roles)


def _over_runs(
    function: Callable, arguments: Sequence[Any], seeds: Sequence[int | None], points: Sequence[int | None]
) -> Any:
    """`function` of one run, over (seeds, points).

    Args:
        function: Of one run.
        arguments: Pytrees.
        seeds: 0 for the arguments that have a leading axis of seeds, else `None`.
        points: The same for points, which come after seeds.
    """
    return _over_axis(_over_axis(function, points), seeds)(*arguments)


def _over_axis(function: Callable, axes: Sequence[int | None]) -> Callable:
    """`vmap`, but an axis of length 1 is taken away and put back: products without batch dimensions are faster."""

    def call(*arguments: Any) -> Any:
        mapped = [leaf for one, axis in zip(arguments, axes, strict=True) if axis == 0 for leaf in jax.tree.leaves(one)]
        if any(leaf.shape[0] != 1 for leaf in mapped):
            return jax.vmap(function, in_axes=tuple(axes))(*arguments)
        taken = [
            jax.tree.map(lambda leaf: leaf[0], one) if axis == 0 else one
            for one, axis in zip(arguments, axes, strict=True)
        ]
        return jax.tree.map(lambda leaf: leaf[None], function(*taken))

    return call
