"""The three kinds of tasks: those given by a spectrum, by rows of data and by a sequence of tokens."""

import abc
from typing import Any

from foretrain._declaration import Declaration
from foretrain.tasks._data import DataSet
from foretrain.tasks._spectrum import PowerLawSpectrum, Spectrum
from foretrain.tasks._tokens import Tokens


class AbstractTask(Declaration):
    """What is learned: an `AbstractSpectralTask`, an `AbstractDataTask` or an `AbstractTokenTask`."""


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


class AbstractTokenTask(AbstractTask):
    """A task that is declared by a sequence of tokens, each of which is to be predicted from those before it."""

    @abc.abstractmethod
    def load(self) -> Tokens:
        """The sequence, split into a training and a held-out part.

        Raises:
            MissingData: The data are not on this machine.
            InvalidInput: They are not what they should be, or too short.
        """
