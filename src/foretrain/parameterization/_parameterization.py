"""`Parameterization`: what every tensor of one model gets."""

import dataclasses
import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from foretrain.errors import InvalidInput, nearest
from foretrain.parameterization._numbers import (
    Entry,
    Size,
    TensorRule,
    model_quantities,
    shift_entry,
    tensor_quantities,
)
from foretrain.parameterization._rules import Recipe, canonical_rule
from foretrain.parameterization._shapes import read_shapes
from foretrain.parameterization._tensors import EMBEDDING, TIED, Shape, Tensor

_VERSION = 1


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
        absorbed: Whether all multipliers have moved into init and rates.
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
    absorbed: bool = False
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
        return self.recipe.branch_factor.value(model_quantities(self.size, self.base, self.richness, self.branch_scale))

    @property
    def attention_scale(self) -> float | None:
        r"""What multiplies $q\cdot k$, absolute: $d_h^{-\alpha_A}$, or $d_{h,0}^{-1/2}(d_h/d_{h,0})^{-\alpha_A}$ against a base.

        `None` when no head size was given.
        """
        if self.size.head_dim is None:
            return None
        factor = self.recipe.attention_factor.value(
            model_quantities(self.size, self.base, self.richness, self.branch_scale)
        )
        return factor if self.base is None else factor / math.sqrt(self.base.head_dim or self.size.head_dim)

    @property
    def readout_multiplier(self) -> float:
        """What a tied table is multiplied by where it reads out; 1 without one.

        Under `sp` and `ntk` this is $N^{-1/2}$ (a ratio to the base in the relative form), since its variance is that of an
        embedding.
        """
        for rule in self.tensors.values():
            if rule.tensor.role == TIED:
                quantities = self._quantities(rule.tensor, rule.base)
                read = {**quantities, "fan_in": quantities["width"]}
                return canonical_rule("output", self.recipe).multiplier.value(read)
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
            "absorbed": self.absorbed,
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
        from foretrain.parameterization._parameterize import absorbed, from_tensors

        try:
            if table["version"] != _VERSION:
                raise InvalidInput(
                    f"Parameterization.from_json: expected version {_VERSION}, got {table['version']!r}."
                )
            recipe = Recipe(**{field.name: table[field.name] for field in dataclasses.fields(Recipe)})
            keys = [field.name for field in dataclasses.fields(Tensor)]
            tensors, bases = {}, {}
            for path, row in table["tensors"].items():
                values: dict[str, Any] = {k: tuple(row[k]) if isinstance(row[k], list) else row[k] for k in keys}
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
            made = absorbed(made) if table["absorbed"] else made
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
        if path not in self.tensors:
            raise InvalidInput(f"Parameterization: no tensor {path!r}{nearest(path, self.tensors)}.")
        return self.tensors[path]

    def _quantities(self, tensor: Tensor, base: Shape | None) -> dict[str, float]:
        return tensor_quantities(tensor, base, self.size, self.base, self.richness, self.branch_scale)

    def _tree(self, part: str) -> Any:
        values = {path: getattr(rule.entry, part) for path, rule in self.tensors.items()}
        if self.structure is None:
            return values
        import jax

        return jax.tree.unflatten(self.structure, list(values.values()))

    def __repr__(self) -> str:
        against = "" if self.base is None else f", base depth {self.base.depth:g}"
        return f"Parameterization({self.recipe.scheme}, {self.recipe.optimizer}, {self.form}{against}; {len(self.tensors)} tensors)"
