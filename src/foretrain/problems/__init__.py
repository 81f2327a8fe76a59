"""Declarations: models, training protocols, and the problem that joins them with a task. No computation."""

from foretrain.problems._low_precision import Precision as Precision
from foretrain.problems._models import ACTIVATIONS as ACTIVATIONS
from foretrain.problems._models import AbstractModel as AbstractModel
from foretrain.problems._models import DeepLinear as DeepLinear
from foretrain.problems._models import Kernel as Kernel
from foretrain.problems._models import RandomFeatures as RandomFeatures
from foretrain.problems._models import TwoLayerLinear as TwoLayerLinear
from foretrain.problems._networks import MLP as MLP
from foretrain.problems._networks import NETWORKS as NETWORKS
from foretrain.problems._networks import AbstractNetwork as AbstractNetwork
from foretrain.problems._networks import ConvResNet as ConvResNet
from foretrain.problems._networks import ResNet as ResNet
from foretrain.problems._networks import Transformer as Transformer
from foretrain.problems._networks import ViT as ViT
from foretrain.problems._networks import resolve_heads as resolve_heads
from foretrain.problems._problem import Problem as Problem
from foretrain.problems._protocols import PROTOCOLS as PROTOCOLS
from foretrain.problems._protocols import SGD as SGD
from foretrain.problems._protocols import AbstractProtocol as AbstractProtocol
from foretrain.problems._protocols import GradientDescent as GradientDescent
from foretrain.problems._protocols import GradientFlow as GradientFlow
from foretrain.problems._protocols import Momentum as Momentum
from foretrain.problems._protocols import MomentumFlow as MomentumFlow
from foretrain.problems._protocols import NetworkTraining as NetworkTraining
from foretrain.problems._protocols import OnePassSGD as OnePassSGD
from foretrain.problems._protocols import Ridge as Ridge
from foretrain.problems._protocols import protocol_named as protocol_named
from foretrain.problems._schedule import Schedule as Schedule
from foretrain.problems._times import protocol_times as protocol_times
from foretrain.problems._times import read_times as read_times

MODELS: dict[str, type[AbstractModel]] = {
    model.kind: model for model in (RandomFeatures, Kernel, TwoLayerLinear, DeepLinear, *NETWORKS)
}
