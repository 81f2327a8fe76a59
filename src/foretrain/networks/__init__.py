"""Finite networks in Equinox, each parameterized by a `Parameterization`."""

from foretrain._formats import FLOAT_FORMATS as FLOAT_FORMATS
from foretrain._formats import FloatFormat as FloatFormat
from foretrain.networks._base import AbstractNetwork as AbstractNetwork
from foretrain.networks._base import Features as Features
from foretrain.networks._conv import ConvResNet as ConvResNet
from foretrain.networks._flops import flops_per_example as flops_per_example
from foretrain.networks._gptq import gptq as gptq
from foretrain.networks._layers import ACTIVATIONS as ACTIVATIONS
from foretrain.networks._layers import Linear as Linear
from foretrain.networks._layers import Norm as Norm
from foretrain.networks._low_precision import low_precision as low_precision
from foretrain.networks._mlp import MLP as MLP
from foretrain.networks._quantize import fake_quantize as fake_quantize
from foretrain.networks._quantize import round_to_format as round_to_format
from foretrain.networks._quantize import round_to_nearest as round_to_nearest
from foretrain.networks._resnet import ResNet as ResNet
from foretrain.networks._transformer import Transformer as Transformer
from foretrain.networks._vit import ViT as ViT

NETWORKS: dict[str, type[AbstractNetwork]] = {
    "mlp": MLP,
    "resnet": ResNet,
    "conv-resnet": ConvResNet,
    "vit": ViT,
    "transformer": Transformer,
}
"""Kind of a model, as study files name it, to the network."""
