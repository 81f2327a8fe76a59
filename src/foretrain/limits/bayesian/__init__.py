"""Bayesian networks of infinite width that learn features: adaptive kernels (arXiv 2502.07998)."""

from foretrain.limits.bayesian._activations import ACTIVATIONS as ACTIVATIONS
from foretrain.limits.bayesian._deep_linear import LinearPosterior as LinearPosterior
from foretrain.limits.bayesian._deep_linear import deep_linear_posterior as deep_linear_posterior
from foretrain.limits.bayesian._hidden_layer import Posterior as Posterior
from foretrain.limits.bayesian._hidden_layer import hidden_layer_posterior as hidden_layer_posterior
