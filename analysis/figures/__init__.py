"""Figures of the frames of `analysis.queries`: pure functions from a frame to a plotly figure.

Each takes `dark` for the page it stands on, and raises ValueError where the frame has no rows: what to show then is
the page's to say. Show them with `st.plotly_chart(figure, theme=None)`.
"""

from analysis.figures.heatmaps import layer_step_heatmap, projection_pairs, task_heatmap
from analysis.figures.lines import (
    loss_lines,
    metric_lines,
    pair_lines,
    projection_layers,
    projection_steps,
    weights_over_steps,
)
from analysis.words import describe

__all__ = [
    "describe",
    "layer_step_heatmap",
    "loss_lines",
    "metric_lines",
    "pair_lines",
    "projection_layers",
    "projection_pairs",
    "projection_steps",
    "task_heatmap",
    "weights_over_steps",
]
