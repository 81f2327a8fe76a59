"""Figures, tables and the HTML report: renders `LearningCurves`, `Comparison` and plain tables, and computes nothing else."""

from foretrain.report._figures import plot_comparison as plot_comparison
from foretrain.report._figures import plot_curves as plot_curves
