"""`Parameterization`: what every tensor of one model gets, and `parameterize`, which makes it."""

import dataclasses
import json
import math
import os
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from foretrain.errors import ForetrainWarning, InvalidInput
from foretrain.parameterization._rules import (
    FORMS,
    READOUTS,
    Recipe,
    Rule,
    canonical_rule,
    relative_rule,
    shift,
)
from foretrain.parameterization._tensors import EMBEDDING, FUSED, TIED, Roles, Shape, Tensor, check_growth, describe

_PARTS = ("multiplier", "init_std", "lr", "eps", "weight_decay")
_VERSION = 1


@dataclasses.dataclass(frozen=True)
class Size:
    """The sizes of a model that are not sizes of its tensors.

    Args:
        depth: Number of residual blocks.
        head_dim: Size of one attention head; `None` without attention.
        width: Width of the stream; only shown in tables.
    """

    depth: float = 1.0
    head_dim: float | None = None
    width: float | None = None

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if value is not None and not (isinstance(value, (int, float)) and 0 < value < math.inf):
                raise InvalidInput(f"Size({field.name}): expected a number > 0, got {value!r}.")


@dataclasses.dataclass(frozen=True)
class Entry:
    """The numbers of one tensor; `None` where the scheme defines nothing.

    Args:
        multiplier: What multiplies the tensor in the forward pass.
        init_std: Standard deviation at the start.
        lr: Learning rate.
        eps: Adam's epsilon.
        weight_decay: Weight decay.
    """

    multiplier: float
    init_std: float
    lr: float | None
    eps: float | None
    weight_decay: float | None


@dataclasses.dataclass(frozen=True)
class TensorRule:
    """One tensor with the rule that it follows.

    Args:
        tensor: Shape and role.
        base: Its shape at the base size, or `None` in the canonical form.
        rule: Powers of sizes.
        entry: The numbers.
    """

    tensor: Tensor
    base: Shape | None
    rule: Rule
    entry: Entry


@dataclasses.dataclass(frozen=True, eq=False)
class Parameterization:
    r"""Multiplier, init, learning rate, epsilon and weight decay of every tensor of a model. Made by `parameterize`.

    Nothing is attached to arrays: the object stands beside the model, is keyed by path and checked by shape.

    In the relative form every number is a factor on what the tensor has at the base shape; in the canonical form,
    multiplier and init are absolute and the others are factors on the one rate, epsilon and decay that are tuned.

    Args:
        recipe: Scheme and optimizer.
        form: `"canonical"` or `"relative"`.
        tensors: Path to rule.
        size: Depth and head size of the model.
        base: Those of the base, or `None`.
        readout: Where the readout's scaling sits.
        richness: $\gamma_0$.
        branch_scale: $\beta_0$.
        structure: The pytree of the parameters, when it was made from one.
    """

    recipe: Recipe
    form: str
    tensors: Mapping[str, TensorRule]
    size: Size
    base: Size | None = None
    readout: str = "forward"
    richness: float = 1.0
    branch_scale: float = 1.0
    structure: Any = None

    @property
    def multipliers(self) -> Any:
        """Forward multipliers, as a pytree like the parameters (or a dictionary by path)."""
        return self._tree("multiplier")

    @property
    def init_std(self) -> Any:
        """Standard deviations at the start: absolute in the canonical form, else factors on those of the base."""
        return self._tree("init_std")

    @property
    def lr(self) -> Any:
        """Factors on the learning rate."""
        return self._tree("lr")

    @property
    def eps(self) -> Any:
        """Factors on Adam's epsilon; `None` where there is none."""
        return self._tree("eps")

    @property
    def weight_decay(self) -> Any:
        """Factors on the weight decay; `None` for tensors that are not decayed."""
        return self._tree("weight_decay")

    @property
    def branch_multiplier(self) -> float:
        r"""What multiplies the output of every residual branch; it is part of the multiplier of the branch's last map."""
        return self.recipe.branch_factor.value(
            _model_quantities(self.size, self.base, self.richness, self.branch_scale)
        )

    @property
    def attention_scale(self) -> float | None:
        r"""What multiplies $q\cdot k$, absolute: $d_h^{-\alpha_A}$, or $d_{h,0}^{-1/2}(d_h/d_{h,0})^{-\alpha_A}$ against a base.

        `None` when no head size was given.
        """
        if self.size.head_dim is None:
            return None
        factor = self.recipe.attention_factor.value(
            _model_quantities(self.size, self.base, self.richness, self.branch_scale)
        )
        return factor if self.base is None else factor / math.sqrt(self.base.head_dim or self.size.head_dim)

    @property
    def readout_multiplier(self) -> float:
        """What a tied table is multiplied by where it reads out; 1 without one."""
        for rule in self.tensors.values():
            if rule.tensor.role == TIED:
                quantities = self._quantities(rule.tensor, rule.base)
                return canonical_rule("output", self.recipe).multiplier.value(
                    {**quantities, "fan_in": quantities["fan_out"]}
                )
        return 1.0

    def absolute_std(self, path: str) -> float:
        r"""The standard deviation that tensor `path` starts with when the base model has variance 1 / fan-in.

        Tables that are looked up have 1 at the base. Vectors are not drawn: biases start at 0 and gains at 1.
        """
        rule = self._rule(path)
        if self.form == "canonical" or rule.base is None or not rule.tensor.fan_in:
            return rule.entry.init_std
        base = dataclasses.replace(rule.tensor, shape=rule.base)
        return rule.entry.init_std / math.sqrt(base.input_dim if base.role in (EMBEDDING, TIED) else base.size_in)

    def check(self, params: Any) -> None:
        """Hold the parameterization against a model's parameters.

        Args:
            params: A pytree of arrays, or path to shape.

        Raises:
            InvalidInput: A path is missing or has another shape.
        """
        shapes, _ = read_shapes(params)
        for path in [*shapes, *self.tensors]:
            if path not in self.tensors or path not in shapes:
                where = "the parameterization" if path not in self.tensors else "the model"
                raise InvalidInput(
                    f"Parameterization.check: {where} has no tensor {path!r}; was it made for another model?"
                )
            ours = self.tensors[path].tensor.shape
            if tuple(shapes[path]) != ours:
                raise InvalidInput(
                    f"Parameterization.check: {path!r} has shape {tuple(shapes[path])}, but the parameterization was made for {ours}; "
                    "make it again with `parameterize`."
                )

    def like(self, params: Any) -> "Parameterization":
        """The same with its pytrees in the form of `params`, after `check`."""
        self.check(params)
        shapes, structure = read_shapes(params)
        return dataclasses.replace(self, tensors={path: self.tensors[path] for path in shapes}, structure=structure)

    def explain(self, path: str) -> str:
        """Which axes of a tensor grow, which rule it follows, and why, in a few lines.

        Raises:
            InvalidInput: No such tensor.
        """
        from foretrain.parameterization._words import explain

        return explain(self, path, self._rule(path))

    def table(self) -> str:
        """All tensors and their numbers as a table in plain text; layers that share a rule share a row."""
        from foretrain.parameterization._words import table

        return table(self)

    def to_json(self) -> dict[str, Any]:
        """Plain values for JSON: the declaration, and for every path shape, role and numbers."""
        tensors = {}
        for path, rule in self.tensors.items():
            tensor = dataclasses.asdict(rule.tensor)
            tensors[path] = {
                **{key: list(value) if isinstance(value, tuple) else value for key, value in tensor.items()},
                "base_shape": None if rule.base is None else list(rule.base),
                **dataclasses.asdict(rule.entry),
            }
        return {
            "version": _VERSION,
            **dataclasses.asdict(self.recipe),
            "form": self.form,
            "readout": self.readout,
            "richness": self.richness,
            "branch_scale": self.branch_scale,
            "size": dataclasses.asdict(self.size),
            "base": None if self.base is None else dataclasses.asdict(self.base),
            "tensors": tensors,
        }

    @classmethod
    def from_json(cls, table: Mapping[str, Any]) -> "Parameterization":
        """What `to_json` wrote, computed again and held against the stored numbers.

        Raises:
            InvalidInput: Not such a table, or its numbers are not those of this release.
        """
        try:
            if table["version"] != _VERSION:
                raise InvalidInput(
                    f"Parameterization.from_json: expected version {_VERSION}, got {table['version']!r}."
                )
            recipe = Recipe(table["scheme"], table["optimizer"], table["decay"], table["attention_exponent"])
            keys = [field.name for field in dataclasses.fields(Tensor)]
            tensors, bases = {}, {}
            for path, row in table["tensors"].items():
                values = {key: tuple(row[key]) if isinstance(row[key], list) else row[key] for key in keys}
                tensors[path] = Tensor(**values)
                if row["base_shape"] is not None:
                    bases[path] = dataclasses.replace(tensors[path], shape=tuple(row["base_shape"]))
            made = from_tensors(
                tensors,
                recipe,
                form=table["form"],
                base=bases or None,
                size=Size(**table["size"]),
                base_size=None if table["base"] is None else Size(**table["base"]),
                readout=table["readout"],
                richness=table["richness"],
                branch_scale=table["branch_scale"],
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise InvalidInput(
                f"Parameterization.from_json: expected what `to_json` wrote, got a table without or with a wrong {error}."
            ) from None
        for path, rule in made.tensors.items():
            for part, value in dataclasses.asdict(rule.entry).items():
                if table["tensors"][path].get(part) != value:
                    raise InvalidInput(
                        f"Parameterization.from_json: {part} of {path!r} is {table['tensors'][path].get(part)!r} in the file and "
                        f"{value!r} by the rules; the file was changed or written by another release."
                    )
        return made

    def save(self, path: str | os.PathLike) -> None:
        """Write `to_json` to a file."""
        Path(path).write_text(json.dumps(self.to_json(), indent=1), encoding="utf-8")

    @classmethod
    def load(cls, path: str | os.PathLike) -> "Parameterization":
        """Read what `save` wrote.

        Raises:
            InvalidInput: No such file, or not such a file.
        """
        try:
            table = json.loads(Path(path).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise InvalidInput(
                f"Parameterization.load: {path}: expected a file written by `save`, got: {error}."
            ) from None
        return cls.from_json(table)

    def shifted(self, path: str, theta: float) -> Entry:
        r"""The numbers of a tensor in other bookkeeping: the same training with multiplier $a\theta$, (PA.2).

        Args:
            path: The tensor.
            theta: $\theta>0$.
        """
        return shift_entry(self._rule(path).entry, theta, self.recipe)

    def _rule(self, path: str) -> TensorRule:
        from foretrain.errors import nearest

        if path not in self.tensors:
            raise InvalidInput(f"Parameterization: no tensor {path!r}{nearest(path, self.tensors)}.")
        return self.tensors[path]

    def _quantities(self, tensor: Tensor, base: Shape | None) -> dict[str, float]:
        return _quantities(tensor, base, self.size, self.base, self.richness, self.branch_scale)

    def _tree(self, part: str) -> Any:
        values = {path: getattr(rule.entry, part) for path, rule in self.tensors.items()}
        if self.structure is None:
            return values
        import jax

        return jax.tree.unflatten(self.structure, list(values.values()))

    def __repr__(self) -> str:
        against = "" if self.base is None else f", base depth {self.base.depth:g}"
        return f"Parameterization({self.recipe.scheme}, {self.recipe.optimizer}, {self.form}{against}; {len(self.tensors)} tensors)"


def parameterize(
    params: Any,
    *,
    scheme: str,
    optimizer: str,
    roles: Roles | None = None,
    base: Any = None,
    growing: Mapping[str, tuple[float, float]] | None = None,
    form: str = "relative",
    decay: str = "lr-multiplied",
    attention_exponent: float = 1.0,
    readout: str = "forward",
    richness: float = 1.0,
    branch_scale: float = 1.0,
    layout: str = "out-in",
    axes: Mapping[str, Sequence[str]] | None = None,
    outside: Sequence[str] = (),
    absorb: bool = False,
    clip_norm: float | None = None,
) -> Parameterization:
    r"""What every tensor of a model gets at its size, (PA.3) and (PA.4).

    In the relative form, `base` is the same model at the size where hyperparameters were tuned: at the base, every factor
    is exactly 1. Layers that only the larger model has follow their own declared roles with the sizes of a base tensor of
    the same role and kind.

    Args:
        params: Parameters (a pytree of arrays or of anything with a shape), or path to shape, or path to `Tensor`.
        scheme: `"sp"`, `"ntk"`, `"mean-field"`, `"mup"`, `"mup-depth"` or `"completep"`.
        optimizer: `"sgd"`, `"momentum"`, `"nesterov"`, `"adam"`, `"adamw"` or `"lion"`.
        roles: Path pattern to role, or a function of path and shape; needed unless `params` are `Tensor`s.
        base: The same at the base size; for the relative form.
        growing: What grows, by name, as (base, target): `width`, `depth`, `head_dim`, `heads` and names of your own. It is
            checked against the shapes. Depth and head size are not sizes of tensors: state them here when they grow.
        form: `"relative"` or `"canonical"` (absolute, unit variance; needs no base).
        decay: Form of the weight decay, `"lr-multiplied"` or `"independent"`.
        attention_exponent: $\alpha_A$.
        readout: `"forward"` or `"init"`: where the readout's scaling sits.
        richness: $\gamma_0$: the output is divided by it, SGD's rates multiplied by its square.
        branch_scale: $\beta_0$.
        layout: As for `describe`.
        axes: As for `describe`.
        outside: As for `describe`.
        absorb: Move every multiplier into init and rates, so that a model's forward pass need not change. Not for tied
            tables; the scale of attention logits stays to be set.
        clip_norm: Norm at which gradients are clipped globally, if they are; warns, since it breaks the equivalence of forms.

    Raises:
        InvalidInput: A tensor without a role, shapes that contradict the roles or what is declared to grow, a missing base, or
            a tensor for which the scheme defines no rate.

    Warns:
        ForetrainWarning: Global clipping; a base that equals the target, where all factors are 1.

    Example:
        >>> from foretrain.parameterization import parameterize
        >>> shapes = {"first": (1024, 10), "middle": (1024, 1024), "last": (1, 1024)}
        >>> base = {"first": (128, 10), "middle": (128, 128), "last": (1, 128)}
        >>> roles = {"first": "input", "middle": "hidden", "last": "output"}
        >>> p = parameterize(shapes, base=base, roles=roles, scheme="mup", optimizer="adam")
        >>> p.lr, p.multipliers["last"]
        ({'first': 1.0, 'middle': 0.125, 'last': 1.0}, 0.125)
    """
    recipe = Recipe(scheme, optimizer, decay, attention_exponent)
    tensors, structure = _read_tensors(params, roles, layout, axes, outside, base)
    bases = None if base is None else _read_tensors(base, roles, layout, axes, outside, None)[0]
    sizes = growing or {}
    depth, head = sizes.get("depth", (1.0, 1.0)), sizes.get("head_dim")
    width = sizes.get("width", (None, None))
    if bases is not None:
        bases = _completed(tensors, bases)
        check_growth(tensors, bases, growing)
        if form == "relative" and all(t.shape == bases[p].shape for p, t in tensors.items()) and depth[0] == depth[1]:
            warnings.warn("parameterize: base = target: all factors are 1.", ForetrainWarning, stacklevel=2)
    if clip_norm is not None:
        warnings.warn(
            "parameterize(clip_norm): clipping by the global norm couples all tensors: bookkeeping forms are no longer equivalent, "
            "and under SGD rates depend on each other. Transfer is not guaranteed; clip each tensor, or check with `transfer`.",
            ForetrainWarning,
            stacklevel=2,
        )
    made = from_tensors(
        tensors,
        recipe,
        form=form,
        base=bases,
        size=Size(depth[1], None if head is None else head[1], width[1]),
        base_size=None if bases is None else Size(depth[0], None if head is None else head[0], width[0]),
        readout=readout,
        richness=richness,
        branch_scale=branch_scale,
    )
    made = dataclasses.replace(made, structure=structure)
    return absorbed(made) if absorb else made


def from_tensors(
    tensors: Mapping[str, Tensor],
    recipe: Recipe,
    *,
    form: str = "canonical",
    base: Mapping[str, Tensor] | None = None,
    size: Size | None = None,
    base_size: Size | None = None,
    readout: str = "forward",
    richness: float = 1.0,
    branch_scale: float = 1.0,
) -> Parameterization:
    """The parameterization of described tensors; `parameterize` is the door for models.

    Args:
        tensors: Path to tensor.
        recipe: Scheme and optimizer.
        form: As for `parameterize`.
        base: The same tensors at the base size, for the relative form.
        size: Depth and head size.
        base_size: Those of the base.
        readout: As for `parameterize`.
        richness: As for `parameterize`.
        branch_scale: As for `parameterize`.

    Raises:
        InvalidInput: As for `parameterize`.
    """
    size = size or Size()
    for name, value, valid in (("form", form, FORMS), ("readout", readout, READOUTS)):
        if value not in valid:
            raise InvalidInput(f"parameterize({name}): expected one of {', '.join(valid)}, got {value!r}.")
    for name, value in (("richness", richness), ("branch_scale", branch_scale)):
        if not 0 < value < math.inf:
            raise InvalidInput(f"parameterize({name}): expected a number > 0, got {value!r}.")
        if value != 1 and (recipe.scheme == "ntk" or (recipe.scheme == "sp" and name == "richness")):
            raise InvalidInput(f"parameterize({name}): the scheme {recipe.scheme!r} has none; leave it out.")
    if form == "relative" and base is None:
        raise InvalidInput(
            "parameterize(base): missing. The relative form scales against a base shape; without one every tool that guesses falls "
            "back to standard parameterization. Give the base, or form='canonical'."
        )
    if form == "canonical":
        base, base_size = None, None
        if readout != "forward":
            raise InvalidInput(
                "parameterize(readout): the canonical form keeps unit variance everywhere; use 'forward'."
            )
    else:
        base_size = base_size or Size()
    rules = {}
    for path, tensor in tensors.items():
        shape = None if base is None else base[path].shape
        _check_special(path, tensor, recipe, readout, size, base_size)
        role = tensor.table_role
        if form == "canonical":
            rule = canonical_rule(role, recipe, branch=tensor.branch)
        else:
            rule = relative_rule(role, recipe, branch=tensor.branch, readout=readout)
        if rule.lr is None:
            raise InvalidInput(
                f"parameterize: {path!r} ({tensor.role}) has no rate under scheme {recipe.scheme!r} with {recipe.optimizer!r}: none is "
                "known. Use a scheme of the muP family, or freeze the tensor."
            )
        quantities = _quantities(tensor, shape, size, base_size, richness, branch_scale)
        rules[path] = TensorRule(tensor, shape, rule, _evaluate(rule, quantities, form))
    return Parameterization(recipe, form, rules, size, base_size, readout, float(richness), float(branch_scale))


def absorbed(parameterization: Parameterization) -> Parameterization:
    """The same training with every multiplier 1, by (PA.2): a model's forward pass need not change.

    Args:
        parameterization: Any, without tied tables.

    Raises:
        InvalidInput: A table is tied: its two uses need different multipliers.
    """
    rules = {}
    for path, rule in parameterization.tensors.items():
        if rule.tensor.role == TIED:
            raise InvalidInput(
                f"parameterize(absorb): {path!r} is tied; the readout's multiplier cannot move into the init of a table that also "
                "embeds. Multiply the logits by `readout_multiplier` in the forward pass."
            )
        theta = 1 / rule.entry.multiplier
        moved = shift(rule.rule, rule.rule.multiplier**-1, parameterization.recipe)
        rules[path] = dataclasses.replace(
            rule, rule=moved, entry=shift_entry(rule.entry, theta, parameterization.recipe)
        )
    return dataclasses.replace(parameterization, tensors=rules)


def shift_entry(entry: Entry, theta: float, recipe: Recipe) -> Entry:
    r"""The same training with multiplier $a\theta$, (PA.2).

    Args:
        entry: The numbers.
        theta: $\theta>0$.
        recipe: The optimizer and the form of its decay.
    """
    from foretrain.parameterization._monomial import monomial

    powers = shift(
        Rule(monomial(), monomial(), monomial(), monomial(), monomial()), monomial(theta=1.0), recipe
    ).parts()
    values = {}
    for name, power in powers.items():
        value = getattr(entry, name)
        values[name] = None if value is None or power is None else value * power.value({"theta": theta})
    return Entry(**values)


def read_shapes(params: Any) -> tuple[dict[str, Shape], Any]:
    """Path to shape, and the pytree structure when `params` is one.

    Args:
        params: A pytree whose leaves have shapes, or path to shape.

    Raises:
        InvalidInput: A leaf has no shape.
    """
    if isinstance(params, Mapping) and all(
        isinstance(v, (tuple, list)) and all(isinstance(n, int) for n in v) for v in params.values()
    ):
        return {str(path): tuple(shape) for path, shape in params.items()}, None
    import jax

    leaves, structure = jax.tree.flatten_with_path(params)
    shapes = {}
    for path, leaf in leaves:
        name = jax.tree_util.keystr(path, simple=True, separator=".")
        if not hasattr(leaf, "shape"):
            raise InvalidInput(
                f"parameterize(params): {name!r} is a {type(leaf).__name__} without a shape; pass the trained arrays only "
                "(for Equinox: `eqx.filter(model, eqx.is_inexact_array)`)."
            )
        shapes[name] = tuple(leaf.shape)
    return shapes, structure


def _read_tensors(
    params: Any,
    roles: Roles | None,
    layout: str,
    axes: Mapping[str, Sequence[str]] | None,
    outside: Sequence[str],
    base: Any,
) -> tuple[dict[str, Tensor], Any]:
    if isinstance(params, Mapping) and params and all(isinstance(v, Tensor) for v in params.values()):
        return dict(params), None
    shapes, structure = read_shapes(params)
    if roles is None:
        raise InvalidInput(
            "parameterize(roles): missing. Declare the role of every tensor by path patterns or a function; nothing is guessed."
        )
    others = read_shapes(base)[0] if base is not None else None
    return describe(shapes, roles, layout=layout, axes=axes, outside=outside, base=others), structure


def _completed(tensors: Mapping[str, Tensor], base: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Base tensors for layers that the base lacks: of a path that differs in numbers only, with the same role."""
    import re

    kinds = {(re.sub(r"\d+", "#", path), t.role): t for path, t in base.items()}
    found = {}
    for path, tensor in tensors.items():
        other = base.get(path) or kinds.get((re.sub(r"\d+", "#", path), tensor.role))
        if other is None:
            raise InvalidInput(
                f"parameterize(base): the base has no tensor {path!r} (shape {tensor.shape}, role {tensor.role!r}), nor one whose path "
                "differs in layer numbers only."
            )
        found[path] = other
    return found


def _check_special(path: str, tensor: Tensor, recipe: Recipe, readout: str, size: Size, base_size: Size | None) -> None:
    if tensor.role == TIED and readout != "forward":
        raise InvalidInput(
            f"parameterize(readout): {path!r} is tied; its variance serves the embedding, so that the readout can only be scaled in "
            "the forward pass: use readout='forward'."
        )
    if tensor.role == FUSED and recipe.feature_learning and recipe.attention_exponent != 1:
        grows = base_size is None or size.head_dim != base_size.head_dim
        if grows:
            raise InvalidInput(
                f"parameterize: {path!r} holds queries, keys and values, whose rates differ at attention_exponent = "
                f"{recipe.attention_exponent:g}; split it into two tensors of roles 'hidden_qk' and 'hidden_inner'."
            )


def _model_quantities(size: Size, base: Size | None, richness: float, branch_scale: float) -> dict[str, float]:
    head = size.head_dim or 1.0
    if base is None:
        sizes = {"depth": float(size.depth), "head_dim": float(head)}
    else:
        sizes = {"depth": size.depth / base.depth, "head_dim": head / (base.head_dim or head)}
    return {**sizes, "richness": richness, "branch_scale": branch_scale}


def _quantities(
    tensor: Tensor, base: Shape | None, size: Size, base_size: Size | None, richness: float, branch_scale: float
) -> dict[str, float]:
    other = None if base is None else dataclasses.replace(tensor, shape=base)
    own = {"fan_in": tensor.size_in, "fan_out": tensor.size_out, "input_dim": tensor.input_dim}
    if other is not None:
        against = {"fan_in": other.size_in, "fan_out": other.size_out, "input_dim": other.input_dim}
        own = {name: own[name] / against[name] for name in own}
    tuned = {"lr": 1.0, "eps": 1.0, "weight_decay": 1.0}
    return {
        **{k: float(v) for k, v in own.items()},
        **_model_quantities(size, base_size, richness, branch_scale),
        **tuned,
    }


def _evaluate(rule: Rule, quantities: Mapping[str, float], form: str) -> Entry:
    # Against a base, richness and branch scale are the base's own: its epsilon was chosen with them.
    own = {**quantities, "richness": 1.0, "branch_scale": 1.0} if form == "relative" else quantities
    values = {}
    for name, power in rule.parts().items():
        values[name] = None if power is None else power.value(own if name in ("eps", "weight_decay") else quantities)
    return Entry(**values)
