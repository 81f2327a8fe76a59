"""Role of a tensor × optimizer × scheme → init, multiplier, learning rate, epsilon, weight decay; and adapters."""

import importlib
from typing import TYPE_CHECKING, Any

from foretrain.parameterization._numbers import Entry as Entry
from foretrain.parameterization._numbers import Size as Size
from foretrain.parameterization._numbers import TensorRule as TensorRule
from foretrain.parameterization._numbers import shift_entry as shift_entry
from foretrain.parameterization._parameterization import Parameterization as Parameterization
from foretrain.parameterization._parameterize import absorbed as absorbed
from foretrain.parameterization._parameterize import from_tensors as from_tensors
from foretrain.parameterization._parameterize import parameterize as parameterize
from foretrain.parameterization._roles import RoleTable as RoleTable
from foretrain.parameterization._roles import role_table as role_table
from foretrain.parameterization._rules import DECAY_RULES as DECAY_RULES
from foretrain.parameterization._rules import DECAYS as DECAYS
from foretrain.parameterization._rules import OPTIMIZERS as OPTIMIZERS
from foretrain.parameterization._rules import ROLE_WORDS as ROLE_WORDS
from foretrain.parameterization._rules import ROLES as ROLES
from foretrain.parameterization._rules import SCHEMES as SCHEMES
from foretrain.parameterization._rules import Recipe as Recipe
from foretrain.parameterization._rules import Rule as Rule
from foretrain.parameterization._rules import canonical_rule as canonical_rule
from foretrain.parameterization._rules import relative_rule as relative_rule
from foretrain.parameterization._rules import shift as shift
from foretrain.parameterization._shapes import read_shapes as read_shapes
from foretrain.parameterization._tensors import Tensor as Tensor
from foretrain.parameterization._tensors import describe as describe

if TYPE_CHECKING:
    from foretrain.parameterization._optax import decay_by_role as decay_by_role
    from foretrain.parameterization._optax import divide_gradients_by_eps as divide_gradients_by_eps
    from foretrain.parameterization._optax import make_optimizer as make_optimizer
    from foretrain.parameterization._optax import scale_by_role as scale_by_role
    from foretrain.parameterization._pytree import apply_multipliers as apply_multipliers
    from foretrain.parameterization._pytree import initialize as initialize
    from foretrain.parameterization._torch import describe_torch as describe_torch
    from foretrain.parameterization._torch import init_ as init_
    from foretrain.parameterization._torch import param_groups as param_groups

# Adapters import what they adapt to; the table itself must not.
_ADAPTERS = {
    "foretrain.parameterization._optax": (
        "decay_by_role",
        "divide_gradients_by_eps",
        "make_optimizer",
        "scale_by_role",
    ),
    "foretrain.parameterization._pytree": ("apply_multipliers", "initialize"),
    "foretrain.parameterization._torch": ("describe_torch", "init_", "param_groups"),
}


def __getattr__(name: str) -> Any:
    for module, names in _ADAPTERS.items():
        if name in names:
            return getattr(importlib.import_module(module), name)
    raise AttributeError(f"module 'foretrain.parameterization' has no attribute {name!r}")
