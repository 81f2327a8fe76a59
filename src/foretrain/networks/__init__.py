"""Finite networks in Equinox, each parameterized by a `Parameterization`."""

from foretrain.networks._base import AbstractNetwork as AbstractNetwork
from foretrain.networks._base import Features as Features
from foretrain.networks._layers import ACTIVATIONS as ACTIVATIONS
from foretrain.networks._layers import Linear as Linear
from foretrain.networks._layers import Norm as Norm
from foretrain.networks._mlp import MLP as MLP

NETWORKS: dict[str, type[AbstractNetwork]] = {"mlp": MLP}
"""Kind of a model, as study files name it, to the network."""
