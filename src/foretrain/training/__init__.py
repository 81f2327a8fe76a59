"""Train finite models: linear students exactly or by SGD, linear networks that learn features, networks by optimizers."""

from foretrain.training._average import average_descent as average_descent
from foretrain.training._data_student import data_draws as data_draws
from foretrain.training._descend import descend as descend
from foretrain.training._draw import Draw as Draw
from foretrain.training._draw import Samples as Samples
from foretrain.training._evolution import Decomposition as Decomposition
from foretrain.training._evolution import Evolution as Evolution
from foretrain.training._evolution import Moments as Moments
from foretrain.training._evolution import evolve as evolve
from foretrain.training._filters import diverged as diverged
from foretrain.training._filters import max_stable_learning_rate as max_stable_learning_rate
from foretrain.training._filters import spectral_filters as spectral_filters
from foretrain.training._initial_kernel import InitialKernel as InitialKernel
from foretrain.training._linear_student import linear_draws as linear_draws
from foretrain.training._linear_student import refine as refine
from foretrain.training._network_runs import NetworkRuns as NetworkRuns
from foretrain.training._network_runs import RunsInterrupted as RunsInterrupted
from foretrain.training._network_runs import run_network as run_network
from foretrain.training._random_network import network_features as network_features
from foretrain.training._train import TrainingInterrupted as TrainingInterrupted
from foretrain.training._train import train as train
from foretrain.training._train import untrainable as untrainable
