"""The two kinds of tasks: those given by a spectrum and those given by data."""

import abc
from typing import Any

from foretrain._declaration import Declaration
from foretrain.tasks._data import DataSet
from foretrain.tasks._spectrum import PowerLawSpectrum, Spectrum


class AbstractTask(Declaration):
    """What is learned. Every task is either an `AbstractSpectralTask` or an `AbstractDataTask`."""


class AbstractSpectralTask(AbstractTask):
    """A task that is declared by its spectrum."""

    noise: Any  # variance of the label noise; an axis

    @abc.abstractmethod
    def spectrum(self) -> Spectrum | PowerLawSpectrum:
        """The spectrum of a task without axes."""


class AbstractDataTask(AbstractTask):
    """A task that is declared by a data set."""

    @abc.abstractmethod
    def load(self) -> DataSet:
        """The data set, standardized as the task says.

        Raises:
            MissingData: The data are not on this machine; the message says where they were looked for.
            InvalidInput: The file does not hold what it should.
        """
