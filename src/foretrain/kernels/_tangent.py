r"""Derivatives of a network with respect to its parameters, kept in factors where that is cheaper, and their products.

For outputs $f_o(x)$ and parameters $\theta_p$ with learning-rate multipliers $r_p$ (one by default),

$$\Theta_{ij}=\sum_o\sum_pr_p\,\frac{\partial f_o(x_i)}{\partial\theta_p}\frac{\partial f_o(x_j)}{\partial\theta_p} .$$

A weight $W$ that enters through one product $z_s=Wa_s$ (positions $s$: one for a fully connected layer, the sequence for a
transformer) has the derivative $\sum_sg_{os}a_s^\top$ with $g_{os}=\partial f_o/\partial z_s$, so that its part of the sum is

$$\sum_{s,t}\big(a_s(x_i)\cdot a_t(x_j)\big)\sum_og_{os}(x_i)\cdot g_{ot}(x_j),$$

for one position the entrywise product $(aa^\top)\circ(gg^\top)$ of two small Gram matrices: no array of rows times
parameters is formed (the structured derivatives of arXiv 2206.08720). All other parameters, and weights with so many
positions that it would not pay, go through their Jacobian.

Letters: S positions, C inputs and F outputs of a product, O outputs of the network.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal, Var
from jaxtyping import Array, Float

from foretrain.errors import InvalidInput

Apply = Callable[[Any, Any], Any]
# One multiplier a parameter array: a number, an array that broadcasts to it, or None for one.
Rates = Sequence[Any]

# Entries of a Jacobian that are multiplied at a time: few enough for a block of rows of them to stay in the cache.
_ENTRIES = 4096
# Primitives through which an array passes entry by entry: its derivative is the same up to order and a common factor.
_RELABEL = ("transpose", "reshape", "squeeze", "broadcast_in_dim", "convert_element_type", "copy", "neg", "rev")


class Product(NamedTuple):
    """A parameter that enters the network through one matrix product, with the sizes S, C and F of that product."""

    parameter: int
    equation: int
    side: int
    factors: tuple[tuple[Any, bool], ...]  # scalars on the way to the product, and whether they divide
    positions: int
    inputs: int
    outputs: int


class Network(NamedTuple):
    """The network on one row as a list of elementary operations, and how each parameter is to be differentiated."""

    program: Jaxpr
    constants: list[Any]
    products: tuple[Product, ...]
    direct: tuple[int, ...]
    outputs: int
    row_numbers: int  # numbers computed from the row on the way to the outputs
    one_by_one: bool  # rows in a loop, not together


class Factors(NamedTuple):
    """Derivatives of every row: Jacobians of the direct parameters, and the two factors of each product."""

    jacobians: list[Float[Array, "rows outputs entries"]]
    products: list[tuple[Float[Array, "rows positions inputs"], Float[Array, "rows outputs positions units"]]]


def tangent_kernel(
    apply: Apply,
    params: Any,
    x: Array,
    y: Array | None = None,
    *,
    outputs: str = "trace",
    learning_rates: Any = None,
    method: str = "auto",
) -> Float[Array, "rows columns"] | Float[Array, "rows outputs columns outputs"]:
    r"""The pure function behind `empirical_ntk`: to be compiled, mapped over parameters, or differentiated.

    $\Theta_{ij}=\sum_pr_p\,\partial_pf(x_i)\,\partial_pf(x_j)$ in one block, in the precision of its arguments, a JAX array.
    Nothing is checked but shapes, and memory has no bound: for one kernel of given parameters use `empirical_ntk`. Use
    this one inside `jax.jit`, with `jax.vmap` over an ensemble of parameters, or within a training loop. Without `y` the
    matrix is symmetric to rounding only.

    Args:
        apply: As for `empirical_ntk`.
        params: As for `empirical_ntk`.
        x: One input a row.
        y: Other inputs; `x` itself when left out.
        outputs: As for `empirical_ntk`.
        learning_rates: As for `empirical_ntk`.
        method: As for `empirical_ntk`.

    Raises:
        InvalidInput: `apply` does not return one number or one vector a row.

    Example:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> from foretrain.kernels import tangent_kernel
        >>> ensemble = jax.random.normal(jax.random.key(0), (5, 3))
        >>> apply = lambda w, x: jnp.tanh(x @ w)
        >>> jax.vmap(lambda w: tangent_kernel(apply, w, jnp.eye(3)))(ensemble).shape
        (5, 3, 3)
    """
    leaves, structure = jax.tree.flatten(params)
    leaves, x = [jnp.asarray(leaf) for leaf in leaves], jnp.asarray(x)
    rates = list_rates(learning_rates, params)
    network = read_network(apply, structure, leaves, x[0], rates, outputs=outputs, method=method)
    left = differentiate(network, leaves, x)
    right = left if y is None else differentiate(network, leaves, jnp.asarray(y))
    return contract(network, left, right, rates, outputs=outputs)


def list_rates(learning_rates: Any, params: Any) -> list[Any]:
    """One multiplier for each parameter array, from a tree of multipliers that may stop short of the leaves."""
    if learning_rates is None:
        return [None] * len(jax.tree.leaves(params))
    return jax.tree.leaves(jax.tree.broadcast(learning_rates, params))


def differentiable(leaf: Any) -> bool:
    """Whether an array is a parameter; integers and flags are constants of the network."""
    return bool(jnp.issubdtype(leaf.dtype, jnp.floating))


# --- reading the network ---------------------------------------------------------------------------------------------


def read_network(
    apply: Apply, structure: Any, leaves: Sequence[Any], row: Any, rates: Rates, *, outputs: str, method: str
) -> Network:
    """The elementary operations of `apply` on one row, and which parameters enter through one product.

    Args:
        apply: The network.
        structure: Tree structure of its parameters.
        leaves: The parameter arrays, or anything with their shape and dtype.
        row: One input, or anything with its shape and dtype.
        rates: Multipliers; one that is an array needs the Jacobian of its parameter.
        outputs: `"trace"` or `"full"`; decides what is cheaper.
        method: `"auto"`, or `"jacobian"` for the Jacobian of every parameter.

    Raises:
        InvalidInput: `apply` does not return one number or one vector a row.
    """

    def one(values: list[Any], single: Any) -> Any:
        return apply(jax.tree.unflatten(structure, values), single[None])

    shapes = [jax.ShapeDtypeStruct(v.shape, v.dtype) for v in (*leaves, row)]
    closed, shape = jax.make_jaxpr(one, return_shape=True)(shapes[:-1], shapes[-1])
    size = _output_size(shape, 1)
    # Once more with the bodies of inner `jit`s in place, so that every product is at the top.
    flat = jax.make_jaxpr(lambda *values: _evaluate(closed.jaxpr, closed.consts, values))(*shapes)
    program = flat.jaxpr
    parameters = [i for i, leaf in enumerate(leaves) if differentiable(leaf)]
    found: list[Product] = []
    if method == "auto":
        scalar = [i for i in parameters if rates[i] is None or jnp.ndim(rates[i]) == 0]
        found = _products(program, scalar, size if outputs == "trace" else size * size)
    inside = {product.parameter for product in found}
    direct = tuple(i for i in parameters if i not in inside)
    # On CPUs the gradients of many convolutions in float64 are expanded to rows times rows of them.
    looped = any(leaves[i].dtype == jnp.float64 for i in parameters) and _has(program, "conv_general_dilated")
    return Network(program, list(flat.consts), tuple(found), direct, size, _row_numbers(program), looped)


def check_output(shape: Any, rows: int) -> None:
    """Raise unless the network returned one number or one vector for each of the rows."""
    _output_size(shape, rows)


def _output_size(shape: Any, rows: int) -> int:
    """The number of outputs of the network, from what it returned for a number of rows."""
    got = getattr(shape, "shape", None)
    if got is None or len(got) not in (1, 2) or got[0] != rows or 0 in got:
        what = f"shape {got}" if got is not None else f"a {type(shape).__name__}"
        raise InvalidInput(
            f"empirical_ntk(apply): expected outputs of shape (rows,) or (rows, outputs), got {what} for {rows} "
            f"row{'s' if rows > 1 else ''} of x; reshape or select the outputs inside `apply`."
        )
    if not jnp.issubdtype(shape.dtype, jnp.floating):
        raise InvalidInput(f"empirical_ntk(apply): expected real outputs, got {shape.dtype}.")
    return 1 if len(got) == 1 else int(got[1])


def _evaluate(
    program: Jaxpr,
    constants: Sequence[Any],
    arguments: Sequence[Any],
    visit: Callable[[int, JaxprEqn, Callable[[Any], Any], list[Any]], list[Any]] | None = None,
) -> list[Any]:
    """Run a program operation by operation; `visit` sees each one and may replace its results."""
    values: dict[Var, Any] = dict(zip((*program.constvars, *program.invars), (*constants, *arguments), strict=True))

    def read(atom: Any) -> Any:
        return atom.val if isinstance(atom, Literal) else values[atom]

    for number, equation in enumerate(program.eqns):
        operands = [read(atom) for atom in equation.invars]
        if equation.primitive.name in ("jit", "pjit"):
            inner = equation.params["jaxpr"]
            results = _evaluate(inner.jaxpr, inner.consts, operands)
        else:
            bound = equation.primitive.get_bind_params(equation.params)
            # Some releases of JAX return inner functions apart.
            functions, options = bound if isinstance(bound, tuple) else ((), bound)
            results = equation.primitive.bind(*functions, *operands, **options)
            results = list(results) if equation.primitive.multiple_results else [results]
        if visit is not None:
            results = visit(number, equation, read, results)
        values.update(zip(equation.outvars, results, strict=True))
    return [read(atom) for atom in program.outvars]


def _aval(atom: Any) -> Any:
    """Shape and dtype of a value in a program."""
    return atom.aval


def _products(program: Jaxpr, parameters: Sequence[int], gradients: int) -> list[Product]:
    """The parameters that are used once, through one product, where its factors are cheaper than the Jacobian.

    `gradients` is how many products of gradients each pair of rows takes: O for the trace, O^2 for all outputs.
    """
    uses: dict[Any, int] = {}
    for atom in [a for equation in program.eqns for a in equation.invars] + list(program.outvars):
        if not isinstance(atom, Literal):
            uses[atom] = uses.get(atom, 0) + 1
    # A parameter under another name: (which, scalars that it was multiplied with).
    names: dict[Any, tuple[int, tuple[tuple[Any, bool], ...]]] = {
        program.invars[i]: (i, ()) for i in parameters if uses.get(program.invars[i], 0) == 1
    }
    found = []
    for number, equation in enumerate(program.eqns):
        which = [k for k, atom in enumerate(equation.invars) if not isinstance(atom, Literal) and atom in names]
        if len(which) != 1:
            continue
        side = which[0]
        parameter, factors = names[equation.invars[side]]
        if equation.primitive.name == "dot_general":
            product = _product(equation, side, parameter, number, factors)
            if product is not None and _pays(product, gradients):
                found.append(product)
        elif (factor := _renaming(equation, side)) is not None and uses.get(equation.outvars[0], 0) == 1:
            names[equation.outvars[0]] = (parameter, factors + factor)
    return found


def _renaming(equation: JaxprEqn, side: int) -> tuple[tuple[Any, bool], ...] | None:
    """The factors by which an operation scales one operand while it keeps every entry once; None if it does more."""
    name, source, target = equation.primitive.name, _aval(equation.invars[side]), _aval(equation.outvars[0])
    if math.prod(source.shape) != math.prod(target.shape) or not jnp.issubdtype(target.dtype, jnp.floating):
        return None
    if name in _RELABEL:
        return ()
    if name == "mul" or (name == "div" and side == 0):
        other = equation.invars[1 - side]
        if _aval(other).shape == ():
            return ((other, name == "div"),)
    return None


def _product(
    equation: JaxprEqn, side: int, parameter: int, number: int, factors: tuple[tuple[Any, bool], ...]
) -> Product | None:
    """Sizes of a matrix product with a parameter on one side; None for a batched one."""
    contracted, batch = equation.params["dimension_numbers"]
    if batch[0]:
        return None
    weight, other = _aval(equation.invars[side]).shape, _aval(equation.invars[1 - side]).shape
    inputs = math.prod(weight[i] for i in contracted[side])
    return (
        Product(parameter, number, side, factors, math.prod(other) // inputs, inputs, math.prod(weight) // inputs)
        if inputs
        else None
    )


def _pays(product: Product, gradients: int) -> bool:
    """Whether the factors take fewer multiplications for each pair of rows than the Jacobian."""
    s, c, f = product.positions, product.inputs, product.outputs
    return s * s * (c + gradients * f) < gradients * c * f


def _row_numbers(program: Jaxpr) -> int:
    """How many numbers depend on the row: what one row needs in memory on the way forth (and once more back)."""
    touched, total = {program.invars[-1]}, 0
    for equation in program.eqns:
        if any(not isinstance(atom, Literal) and atom in touched for atom in equation.invars):
            touched.update(equation.outvars)
            total += sum(math.prod(_aval(v).shape) for v in equation.outvars)
    return total


def _has(program: Jaxpr, name: str) -> bool:
    """Whether a program contains an operation, at any depth."""
    inner = [value for equation in program.eqns for value in equation.params.values()]
    return any(equation.primitive.name == name for equation in program.eqns) or any(
        _has(value.jaxpr if isinstance(value, ClosedJaxpr) else value, name)
        for value in inner
        if isinstance(value, (Jaxpr, ClosedJaxpr))
    )


# --- derivatives and their products -------------------------------------------------------------------------------------


def differentiate(network: Network, leaves: Sequence[Array], x: Array) -> Factors:
    """The derivatives of every row, each row passed through the network alone.

    One pass forward, and one back for each output; products are differentiated with respect to what they return.
    """
    by_equation = {product.equation: k for k, product in enumerate(network.products)}
    shapes = [_aval(network.program.eqns[p.equation].outvars[0]) for p in network.products]

    def one_row(row: Array) -> Factors:
        def forward(direct: list[Array], shifts: list[Array]) -> tuple[Array, list[Array]]:
            incoming: list[Any] = [None] * len(network.products)

            def visit(number: int, equation: JaxprEqn, read: Callable[[Any], Any], results: list[Any]) -> list[Any]:
                if (k := by_equation.get(number)) is None:
                    return results
                incoming[k] = _incoming(network.products[k], equation, read)
                return [results[0] + shifts[k]]

            arguments = list(leaves)
            for i, value in zip(network.direct, direct, strict=True):
                arguments[i] = value
            (value,) = _evaluate(network.program, network.constants, [*arguments, row], visit)
            return value.reshape(network.outputs), incoming

        shifts = [jnp.zeros(s.shape, s.dtype) for s in shapes]
        value, back, incoming = jax.vjp(forward, [leaves[i] for i in network.direct], shifts, has_aux=True)
        jacobians, slopes = jax.vmap(back)(jnp.eye(network.outputs, dtype=value.dtype))
        pairs = []
        for product, a, g in zip(network.products, incoming, slopes, strict=True):
            s, f = product.positions, product.outputs
            # The free axes of the left operand come first in the result of a product.
            g = g.reshape(-1, s, f) if product.side == 1 else g.reshape(-1, f, s).swapaxes(1, 2)
            pairs.append((a, g))
        return Factors([j.reshape(network.outputs, -1) for j in jacobians], pairs)

    return jax.lax.map(one_row, x) if network.one_by_one else jax.vmap(one_row)(x)


def _incoming(product: Product, equation: JaxprEqn, read: Callable[[Any], Any]) -> Array:
    """What a product multiplies the parameter with, as a matrix of positions and inputs, factors included."""
    contracted, _ = equation.params["dimension_numbers"]
    other, axes = read(equation.invars[1 - product.side]), contracted[1 - product.side]
    # Contracted axes last, in the order in which the parameter has them.
    a = jnp.moveaxis(other, axes, range(-len(axes), 0)).reshape(product.positions, product.inputs)
    for factor, divides in product.factors:
        a = a / read(factor) if divides else a * read(factor)
    return a


def contract(network: Network, left: Factors, right: Factors, rates: Rates, *, outputs: str) -> Array:
    """The sum over parameters of products of derivatives of two sets of rows."""
    total: Any = 0.0
    subscripts = "iop,jop->ij" if outputs == "trace" else "iop,jqp->iojq"
    for i, j, k in zip(network.direct, left.jacobians, right.jacobians, strict=True):
        rate = rates[i]
        if rate is None or jnp.ndim(rate) == 0:
            total = total + _scaled(rate, _multiply_long(subscripts, j, k))
        else:
            entries = jnp.broadcast_to(rate, _aval(network.program.invars[i]).shape).reshape(-1)
            total = total + _multiply_long(subscripts, j, k, entries)
    for product, (a, g), (b, h) in zip(network.products, left.products, right.products, strict=True):
        part = _pair_one(a, g, b, h, outputs) if product.positions == 1 else _pair_many(a, g, b, h, outputs)
        total = total + _scaled(rates[product.parameter], part)
    return total


def _pair_one(a: Array, g: Array, b: Array, h: Array, outputs: str) -> Array:
    """One position: the entrywise product of two Gram matrices."""
    incoming = _multiply("ic,jc->ij", a[:, 0], b[:, 0])
    if outputs == "trace":
        return incoming * _multiply("iof,jof->ij", g[:, :, 0], h[:, :, 0])
    return incoming[:, None, :, None] * _multiply("iof,jqf->iojq", g[:, :, 0], h[:, :, 0])


def _pair_many(a: Array, g: Array, b: Array, h: Array, outputs: str) -> Array:
    """The sum over pairs of positions."""
    incoming = _multiply("isc,jtc->isjt", a, b)
    if outputs == "trace":
        return jnp.sum(incoming * _multiply("iosf,jotf->isjt", g, h), axis=(1, 3))
    return _multiply("isjt,iosjqt->iojq", incoming, _multiply("iosf,jqtf->iosjqt", g, h))


def _multiply(subscripts: str, left: Array, right: Array) -> Array:
    # Accelerators would round the factors to fewer digits than they have.
    return jnp.einsum(subscripts, left, right, precision=jax.lax.Precision.HIGHEST)


def _multiply_long(subscripts: str, left: Array, right: Array, rates: Array | None = None) -> Array:
    """`_multiply` over very many entries, a few thousand at a time.

    In one go it would first transpose (and scale) a copy of the Jacobian, and take several times as long.
    """
    entries = left.shape[-1]

    def part(start: Any, size: int) -> Array:
        some = jax.lax.dynamic_slice_in_dim(left, start, size, -1)
        if rates is not None:
            some = some * jax.lax.dynamic_slice_in_dim(rates, start, size, 0)[None, None].astype(some.dtype)
        return _multiply(subscripts, some, jax.lax.dynamic_slice_in_dim(right, start, size, -1))

    whole = entries // _ENTRIES
    total = part(whole * _ENTRIES, entries % _ENTRIES)
    if whole:
        total = jax.lax.fori_loop(0, whole, lambda n, sum_: sum_ + part(n * _ENTRIES, _ENTRIES), total)
    return total


def _scaled(rate: Any, part: Array) -> Array:
    return part if rate is None else jnp.asarray(rate, part.dtype) * part
