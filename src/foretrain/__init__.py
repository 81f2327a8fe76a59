"""`foretrain`: predict how a neural network will learn, before you train it.

Names are loaded on first use, so that importing the package costs nothing.
"""

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_WHERE = {
    "foretrain._gradient": ("gradient",),
    "foretrain.curves": ("Comparison", "LearningCurves"),
    "foretrain.kernels": ("NNGP", "NTK", "measure_spectrum"),
    "foretrain.limits": ("solve",),
    "foretrain.parameterization": ("Parameterization", "parameterize"),
    "foretrain.problems": (
        "GradientDescent",
        "GradientFlow",
        "ConvResNet",
        "DeepLinear",
        "Kernel",
        "MLP",
        "Momentum",
        "MomentumFlow",
        "NetworkTraining",
        "OnePassSGD",
        "Problem",
        "RandomFeatures",
        "ResNet",
        "Ridge",
        "SGD",
        "Schedule",
        "Transformer",
        "TwoLayerLinear",
        "ViT",
    ),
    "foretrain.studies": ("Study", "compare", "read_study", "transfer"),
    "foretrain.tasks": (
        "Arrays",
        "CIFAR10",
        "Circle",
        "DataSet",
        "Digits",
        "FashionMNIST",
        "Isotropic",
        "PowerLaw",
        "Spectrum",
        "SpectrumTask",
        "Text",
    ),
    "foretrain.training": ("train",),
}
_HOME = {name: module for module, names in _WHERE.items() for name in names}


def __getattr__(name: str) -> Any:
    if name in _HOME:
        value = getattr(importlib.import_module(_HOME[name]), name)
        globals()[name] = value
        return value
    try:
        return importlib.import_module(f"foretrain.{name}")
    except ModuleNotFoundError:
        raise AttributeError(f"module 'foretrain' has no attribute {name!r}") from None


def __dir__() -> list[str]:
    return sorted([*_HOME, "__version__"])


if TYPE_CHECKING:
    from foretrain._gradient import gradient as gradient
    from foretrain.curves import Comparison as Comparison
    from foretrain.curves import LearningCurves as LearningCurves
    from foretrain.kernels import NNGP as NNGP
    from foretrain.kernels import NTK as NTK
    from foretrain.kernels import measure_spectrum as measure_spectrum
    from foretrain.limits import solve as solve
    from foretrain.parameterization import Parameterization as Parameterization
    from foretrain.parameterization import parameterize as parameterize
    from foretrain.problems import MLP as MLP
    from foretrain.problems import SGD as SGD
    from foretrain.problems import ConvResNet as ConvResNet
    from foretrain.problems import DeepLinear as DeepLinear
    from foretrain.problems import GradientDescent as GradientDescent
    from foretrain.problems import GradientFlow as GradientFlow
    from foretrain.problems import Kernel as Kernel
    from foretrain.problems import Momentum as Momentum
    from foretrain.problems import MomentumFlow as MomentumFlow
    from foretrain.problems import NetworkTraining as NetworkTraining
    from foretrain.problems import OnePassSGD as OnePassSGD
    from foretrain.problems import Problem as Problem
    from foretrain.problems import RandomFeatures as RandomFeatures
    from foretrain.problems import ResNet as ResNet
    from foretrain.problems import Ridge as Ridge
    from foretrain.problems import Schedule as Schedule
    from foretrain.problems import Transformer as Transformer
    from foretrain.problems import TwoLayerLinear as TwoLayerLinear
    from foretrain.problems import ViT as ViT
    from foretrain.studies import Study as Study
    from foretrain.studies import compare as compare
    from foretrain.studies import read_study as read_study
    from foretrain.studies import transfer as transfer
    from foretrain.tasks import CIFAR10 as CIFAR10
    from foretrain.tasks import Arrays as Arrays
    from foretrain.tasks import Circle as Circle
    from foretrain.tasks import DataSet as DataSet
    from foretrain.tasks import Digits as Digits
    from foretrain.tasks import FashionMNIST as FashionMNIST
    from foretrain.tasks import Isotropic as Isotropic
    from foretrain.tasks import PowerLaw as PowerLaw
    from foretrain.tasks import Spectrum as Spectrum
    from foretrain.tasks import SpectrumTask as SpectrumTask
    from foretrain.tasks import Text as Text
    from foretrain.training import train as train
