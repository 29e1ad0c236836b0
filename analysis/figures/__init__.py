"""Figures of what `analysis` answers: pure functions from a frame, or from verdicts, to a plotly figure.

Each takes `dark` for the page it stands on, and raises ValueError where the frame has no rows: what to show then is
the page's to say. Show them with `st.plotly_chart(figure, theme=None)`.
"""

from ortho_lora.errors import require

require("analysis", "plotly")

from analysis.figures.arrows import conflict_arrows
from analysis.figures.dots import remaining_conflicts, replayed_methods
from analysis.figures.grids import gain_grid, transfer_heatmap
from analysis.figures.heatmaps import gram_heatmap, projection_pairs, task_heatmap
from analysis.figures.intervals import window_intervals
from analysis.figures.layers import block_heatmap, layer_step_heatmap, module_heatmaps
from analysis.figures.lines import pair_lines, projection_layers, projection_steps, weights_over_steps
from analysis.figures.study import axis_curves, cost_and_score, method_gains
from analysis.figures.trajectories import loss_lines, loss_trajectories, metric_lines, metric_trajectories
from analysis.figures.transfer import conflict_and_transfer
from analysis.figures.verdicts import strengths, windows
from analysis.figures.words import describe

__all__ = [
    "axis_curves",
    "block_heatmap",
    "conflict_and_transfer",
    "conflict_arrows",
    "cost_and_score",
    "describe",
    "gain_grid",
    "gram_heatmap",
    "layer_step_heatmap",
    "loss_lines",
    "loss_trajectories",
    "method_gains",
    "metric_lines",
    "metric_trajectories",
    "module_heatmaps",
    "pair_lines",
    "projection_layers",
    "projection_pairs",
    "projection_steps",
    "remaining_conflicts",
    "replayed_methods",
    "strengths",
    "task_heatmap",
    "transfer_heatmap",
    "weights_over_steps",
    "window_intervals",
    "windows",
]
