"""The solvable limits and the door to them."""

from foretrain.limits._registry import LIMITS as LIMITS
from foretrain.limits._registry import Limit as Limit
from foretrain.limits._registry import find_limit as find_limit
from foretrain.limits._registry import solve as solve
