"""What is learned: spectra, data sets and the tasks that a study file can name."""

from foretrain.tasks._arrays import Arrays as Arrays
from foretrain.tasks._base import AbstractDataTask as AbstractDataTask
from foretrain.tasks._base import AbstractSpectralTask as AbstractSpectralTask
from foretrain.tasks._base import AbstractTask as AbstractTask
from foretrain.tasks._base import AbstractTokenTask as AbstractTokenTask
from foretrain.tasks._cifar import CIFAR10 as CIFAR10
from foretrain.tasks._circle import Circle as Circle
from foretrain.tasks._data import DataSet as DataSet
from foretrain.tasks._data import Standardization as Standardization
from foretrain.tasks._images import Digits as Digits
from foretrain.tasks._images import FashionMNIST as FashionMNIST
from foretrain.tasks._spectral import Isotropic as Isotropic
from foretrain.tasks._spectral import PowerLaw as PowerLaw
from foretrain.tasks._spectral import SpectrumTask as SpectrumTask
from foretrain.tasks._spectrum import PowerLawSpectrum as PowerLawSpectrum
from foretrain.tasks._spectrum import Spectrum as Spectrum
from foretrain.tasks._text import Text as Text
from foretrain.tasks._tokens import Tokens as Tokens

TASKS: dict[str, type[AbstractTask]] = {
    task.kind: task for task in (PowerLaw, SpectrumTask, Isotropic, Digits, FashionMNIST, CIFAR10, Circle, Arrays, Text)
}
