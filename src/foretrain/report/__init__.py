"""Figures, tables and the HTML report: renders `LearningCurves`, `Comparison` and plain tables, and computes nothing else."""

from foretrain.report._coordinate_figure import plot_coordinates as plot_coordinates
from foretrain.report._figures import plot_comparison as plot_comparison
from foretrain.report._figures import plot_curves as plot_curves
from foretrain.report._fit_figure import plot_fit as plot_fit
from foretrain.report._fit_page import write_fit_report as write_fit_report
from foretrain.report._heatmap import heatmap as heatmap
from foretrain.report._html import write_report as write_report
from foretrain.report._spectrum import plot_spectrum as plot_spectrum
from foretrain.report._theory_figures import plot_frontier as plot_frontier
from foretrain.report._theory_figures import plot_phase_plane as plot_phase_plane
from foretrain.report._transfer_figure import plot_transfer as plot_transfer
from foretrain.report._transfer_page import write_transfer_report as write_transfer_report
