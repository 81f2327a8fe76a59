"""What a parameterization knows of a model: the shape and role of every trained tensor, and which of its axes grow."""

import dataclasses
import fnmatch
import itertools
import math
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from foretrain.errors import InvalidInput, nearest
from foretrain.parameterization._rules import BRANCH_VECTORS, HIDDEN, ROLE_WORDS, ROLES

Shape = tuple[int, ...]
Roles = Mapping[str, str] | Callable[[str, Shape], str | None]

EMBEDDING, TIED, FUSED = "embedding", "tied", "hidden_qkv"
DECLARABLE = (*ROLES, EMBEDDING, TIED, FUSED)
_NOT_COPIES = ("depth", "width", "heads", "head_dim")
_VECTORS = (*BRANCH_VECTORS, "final_vector", "output_bias")


@dataclasses.dataclass(frozen=True)
class Tensor:
    """One trained tensor.

    Args:
        shape: Its shape.
        role: One of the roles of the table, or `"embedding"` (an input table that is looked up, stored as (entries,
            width)), `"tied"` (such a table that also reads out), `"hidden_qkv"` (queries, keys and values in one tensor).
        fan_in: Positions of the axes that are summed over, kernel axes of a convolution included.
        fan_out: Positions of the axes that it makes; the other axes are stacked copies, for example over depth.
        branch: Whether it sits in a residual branch; matters for hidden maps and their vectors.

    Raises:
        InvalidInput: No such role, or the axes do not fit the shape.
    """

    shape: Shape
    role: str
    fan_in: tuple[int, ...] = ()
    fan_out: tuple[int, ...] = ()
    branch: bool = True

    def __post_init__(self) -> None:
        if self.role not in DECLARABLE:
            raise InvalidInput(
                f"parameterization(role): expected one of {', '.join(DECLARABLE)}, got {self.role!r}{nearest(self.role, DECLARABLE)}."
            )
        axes = (*self.fan_in, *self.fan_out)
        if len(set(axes)) != len(axes) or any(not 0 <= axis < len(self.shape) for axis in axes):
            raise InvalidInput(
                f"Tensor(fan_in={self.fan_in}, fan_out={self.fan_out}): expected distinct axes of the shape {self.shape}."
            )

    @property
    def table_role(self) -> str:
        """The row of the table that it follows."""
        return {EMBEDDING: "input", TIED: "input", FUSED: "hidden_inner"}.get(self.role, self.role)

    @property
    def size_in(self) -> int:
        """Product of the summed axes."""
        return math.prod(self.shape[axis] for axis in self.fan_in)

    @property
    def size_out(self) -> int:
        """Product of the axes that it makes."""
        return math.prod(self.shape[axis] for axis in self.fan_out)

    @property
    def input_dim(self) -> int:
        """Number of inputs that are summed: 1 for a table that is looked up."""
        return 1 if self.role in (EMBEDDING, TIED) else self.size_in


def describe(
    shapes: Mapping[str, Shape],
    roles: Roles,
    *,
    layout: str = "out-in",
    axes: Mapping[str, Sequence[str]] | None = None,
    outside: Sequence[str] = (),
    base: Mapping[str, Shape] | None = None,
) -> dict[str, Tensor]:
    """The tensors of a model from their shapes and declared roles; nothing is guessed.

    Args:
        shapes: Path to shape.
        roles: Path pattern (as in file names; the first that matches counts) to role, or a function of path and shape.
        layout: Where matrices and convolutions keep their axes: `"out-in"` (PyTorch, Equinox: outputs first, inputs second,
            then kernel) or `"in-out"` (Flax: kernel, inputs, outputs last, where the role `"input"` of a leaf called
            `embedding` means a table that is looked up).
        axes: Path pattern to one of `"in"`, `"out"`, `"stack"` for every axis, where the layout is another.
        outside: Patterns of hidden maps and vectors that are not in a residual branch.
        base: Shapes of the same model at another size, for the message about a tensor without a role.

    Raises:
        InvalidInput: A tensor has no role (names path, shape and growing axes), or a word is unknown.
    """
    if layout not in ("out-in", "in-out"):
        raise InvalidInput(f"parameterization(layout): expected 'out-in' or 'in-out', got {layout!r}.")
    found = {}
    for path, shape in shapes.items():
        role = roles(path, tuple(shape)) if callable(roles) else matching(path, roles)
        if role is None:
            grown = "unknown without a base" if base is None else _growth_words(shape, base.get(path))
            raise InvalidInput(
                f"parameterization(roles): no role for {path!r}, shape {tuple(shape)}, growing axes: {grown}. "
                f"Declare one of {', '.join(DECLARABLE)}, by a pattern such as {{{path!r}: 'hidden'}}."
            )
        if layout == "in-out" and role == "input" and path.rpartition(".")[2] == "embedding":
            role = EMBEDDING
        labels = matching(path, axes or {})
        fan_in, fan_out = _fans(path, tuple(shape), role, layout, labels)
        found[path] = Tensor(tuple(shape), role, fan_in, fan_out, matching(path, dict.fromkeys(outside, True)) is None)
    return found


def check_growth(
    tensors: Mapping[str, Tensor],
    base: Mapping[str, Tensor],
    growing: Mapping[str, tuple[float, float]] | None,
    copies: Collection[float] = (),
) -> None:
    """Hold two instantiations of a model against each other and against what is said to grow.

    Args:
        tensors: The tensors at the target size.
        base: Those at the base size; layers that the base lacks are taken from a tensor of the same role and kind.
        growing: Name of an axis to (base, target), for example `{"width": (64, 256)}`.
        copies: Factors by which numbers of layers grow, which may be what was declared.

    Raises:
        InvalidInput: A tensor grows along an axis that its role holds fixed, or does not grow along one that should, or by
            a factor that nothing declared explains, or a declared axis is found nowhere.
    """
    axes = {name: pair for name, pair in (growing or {}).items() if name != "depth"}
    allowed = _factors(axes) if growing else None
    seen: set[float] = set(copies)
    grows_at_all = any(_grown(t, base[path]) for path, t in tensors.items() if path in base)
    for path, tensor in tensors.items():
        if path not in base:
            continue
        other = base[path]
        if len(tensor.shape) != len(other.shape) or tensor.role != other.role:
            raise InvalidInput(
                f"parameterization: {path!r} is {other.shape} ({other.role}) at the base and {tensor.shape} ({tensor.role}) at the "
                "target; expected the same kind of tensor."
            )
        grown = _grown(tensor, other)
        for axis in grown:
            factor = tensor.shape[axis] / other.shape[axis]
            seen.add(factor)
            if allowed is not None and not any(math.isclose(factor, f) for f in allowed):
                said = ", ".join(f"{name} {a:g} -> {b:g}" for name, (a, b) in (growing or {}).items()) or "nothing"
                raise InvalidInput(
                    f"parameterization(growing): axis {axis} of {path!r} grows from {other.shape[axis]} to {tensor.shape[axis]} "
                    f"(x{factor:g}), but what was declared to grow is {said}. Declare the missing axis, or mend the shapes."
                )
        if grows_at_all:
            _check_role(path, tensor, other, grown)
    for name, (small, large) in (growing or {}).items():
        if (
            name not in ("depth", "heads", "head_dim")
            and small != large
            and not any(math.isclose(large / small, f) for f in seen)
        ):
            raise InvalidInput(
                f"parameterization(growing): {name} is declared to grow from {small:g} to {large:g}, but no tensor grows by "
                f"x{large / small:g}; was the base built at another size?"
            )


def check_depth(
    tensors: Mapping[str, Tensor],
    base: Mapping[str, Tensor],
    growing: Mapping[str, tuple[float, float]] | None,
    *,
    needed: bool,
) -> None:
    """Hold the number of residual branches of two instantiations against the depth that is said to grow.

    Args:
        tensors: The tensors at the target size.
        base: Those at the base size, as they are.
        growing: As for `check_growth`.
        needed: Whether the scheme has a depth rule, so that forgetting depth is a mistake even if nothing is declared.

    Raises:
        InvalidInput: Layers were added without a word about depth, or not as many as was said.
    """
    ours, theirs = _copies(tensors), _copies(base)
    declared = (growing or {}).get("depth")
    others = _factors({name: pair for name, pair in (growing or {}).items() if name not in _NOT_COPIES})
    if not (growing or needed):
        return
    small, large = declared or (1.0, 1.0)
    unexplained = []
    for kind in ours.keys() & theirs.keys():
        # Layers outside the count, such as a first one of the same kind, leave the difference as it should be.
        ratios = {large / small * factor for factor in {1.0, *others}}
        explained = any(math.isclose(ours[kind] / theirs[kind], ratio) for ratio in ratios)
        if not explained and ours[kind] - theirs[kind] != large - small:
            unexplained.append(kind)
    if unexplained and (declared is None or len(unexplained) == len(ours.keys() & theirs.keys())):
        kind = min(unexplained)
        words = "depth was not declared" if declared is None else f"depth {small:g} -> {large:g} was declared"
        raise InvalidInput(
            f"parameterization(growing): the base has {theirs[kind]} and the target {ours[kind]} copies of {kind!r}, but {words}. "
            "Declare `depth` as (base, target), or build both models at the sizes declared."
        )


def copy_ratios(tensors: Mapping[str, Tensor], base: Mapping[str, Tensor]) -> set[float]:
    """By which factors the numbers of hidden maps of one kind grow: depth, experts.

    Args:
        tensors: The tensors at the target size.
        base: Those at the base size, as they are.
    """
    ours, theirs = _copies(tensors), _copies(base)
    return {ours[kind] / theirs[kind] for kind in ours.keys() & theirs.keys()}


def path_kind(path: str) -> str:
    """A path without its layer numbers, the same for all layers of one kind."""
    return re.sub(r"\d+", "#", path)


def _copies(tensors: Mapping[str, Tensor]) -> dict[str, int]:
    """How many hidden maps in residual branches there are of each kind, stacked copies included."""
    found: dict[str, int] = {}
    for path, tensor in tensors.items():
        if tensor.branch and tensor.table_role in HIDDEN:
            fans = {*tensor.fan_in, *tensor.fan_out}
            stacked = math.prod(n for axis, n in enumerate(tensor.shape) if axis not in fans)
            found[path_kind(path)] = found.get(path_kind(path), 0) + stacked
    return found


def _check_role(path: str, tensor: Tensor, other: Tensor, grown: Sequence[int]) -> None:
    grows_in, grows_out = tensor.size_in != other.size_in, tensor.size_out != other.size_out
    role = tensor.table_role
    wanted = {"input": (False, True), "output": (True, False), "output_bias": (False, False)}.get(
        role, (True, True) if role in HIDDEN else (False, True)
    )
    if (grows_in, grows_out) != wanted:
        words = {(True, True): "fan-in and fan-out", (True, False): "fan-in alone", (False, True): "fan-out alone"}
        raise InvalidInput(
            f"parameterization: {path!r}, shape {tensor.shape} (base {other.shape}), has the role {tensor.role!r} "
            f"({ROLE_WORDS.get(role, role)}), for which {words.get(wanted, 'no axis')} should grow, but growing axes are "
            f"{_growth_words(tensor.shape, other.shape)}. Give it another role, or mend the layout or the base."
        )


def _grown(tensor: Tensor, other: Tensor) -> list[int]:
    fans = {*tensor.fan_in, *tensor.fan_out}
    return [axis for axis in fans if tensor.shape[axis] != other.shape[axis]]


def _factors(growing: Mapping[str, tuple[float, float]]) -> set[float]:
    """Every factor that some of the declared axes, together, explain."""
    ratios = [large / small for small, large in growing.values()]
    return {math.prod(some) for k in range(1, len(ratios) + 1) for some in itertools.combinations(ratios, k)}


def _growth_words(shape: Shape, other: Shape | None) -> str:
    if other is None or len(other) != len(shape):
        return "unknown, the base has no such tensor"
    words = [f"{axis} ({a} -> {b})" for axis, (a, b) in enumerate(zip(other, shape, strict=True)) if a != b]
    return ", ".join(words) or "none"


def matching(path: str, patterns: Mapping[str, Any]) -> Any:
    """What belongs to the first pattern that matches a path, or `None`."""
    return next((value for pattern, value in patterns.items() if fnmatch.fnmatchcase(path, pattern)), None)


def _fans(
    path: str, shape: Shape, role: str, layout: str, labels: Sequence[str] | None
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    axes = range(len(shape))
    if labels is not None:
        if len(labels) != len(shape) or any(label not in ("in", "out", "stack") for label in labels):
            raise InvalidInput(
                f"parameterization(axes): {path!r} of shape {shape}: expected 'in', 'out' or 'stack' for each of its {len(shape)} "
                f"axes, got {tuple(labels)}."
            )
        return tuple(a for a in axes if labels[a] == "in"), tuple(a for a in axes if labels[a] == "out")
    if role in _VECTORS:
        if len(shape) > 1:
            raise InvalidInput(
                f"parameterization(roles): {path!r} of shape {shape} has the role {role!r} of a vector; stacked vectors need "
                "`axes`, for example ('stack', 'out')."
            )
        return (), tuple(axes)
    if len(shape) < 2:
        raise InvalidInput(
            f"parameterization(roles): {path!r} of shape {shape} has the role {role!r} of a matrix; expected a vector's role or `axes`."
        )
    if role in (EMBEDDING, TIED):
        return (0,), tuple(axes)[1:]
    if layout == "out-in":
        return tuple(axes)[1:], (0,)
    return tuple(axes)[:-1], (len(shape) - 1,)
