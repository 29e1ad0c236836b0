"""Figures of what `analysis` answers: pure functions from a frame, or from verdicts, to a plotly figure.

Each takes `dark` for the page it stands on, and raises ValueError where the frame has no rows: what to show then is
the page's to say. Show them with `st.plotly_chart(figure, theme=None)`.
"""

from ortho_lora.errors import require

require("analysis", "plotly")

from analysis.figures.dots import known_cosine as known_cosine
from analysis.figures.dots import remaining_conflicts as remaining_conflicts
from analysis.figures.dots import replayed_methods as replayed_methods
from analysis.figures.effects import effect_heatmap as effect_heatmap
from analysis.figures.effects import effects_over_run as effects_over_run
from analysis.figures.effects import progress_dots as progress_dots
from analysis.figures.graph import cosine_graph as cosine_graph
from analysis.figures.graph import transfer_graph as transfer_graph
from analysis.figures.grids import gain_grid as gain_grid
from analysis.figures.grids import transfer_heatmap as transfer_heatmap
from analysis.figures.heatmaps import gram_heatmap as gram_heatmap
from analysis.figures.heatmaps import projection_pairs as projection_pairs
from analysis.figures.heatmaps import task_heatmap as task_heatmap
from analysis.figures.intervals import window_intervals as window_intervals
from analysis.figures.layers import block_heatmap as block_heatmap
from analysis.figures.layers import layer_step_heatmap as layer_step_heatmap
from analysis.figures.layers import layer_strip as layer_strip
from analysis.figures.layers import module_heatmaps as module_heatmaps
from analysis.figures.layers import snapshot_map as snapshot_map
from analysis.figures.lines import pair_lines as pair_lines
from analysis.figures.lines import projection_layers as projection_layers
from analysis.figures.lines import projection_steps as projection_steps
from analysis.figures.lines import weights_over_steps as weights_over_steps
from analysis.figures.study import axis_curves as axis_curves
from analysis.figures.study import cost_and_score as cost_and_score
from analysis.figures.study import method_gains as method_gains
from analysis.figures.trajectories import loss_lines as loss_lines
from analysis.figures.trajectories import loss_trajectories as loss_trajectories
from analysis.figures.trajectories import metric_lines as metric_lines
from analysis.figures.trajectories import metric_trajectories as metric_trajectories
from analysis.figures.transfer import conflict_and_transfer as conflict_and_transfer
from analysis.figures.transfer import predicted_and_realized as predicted_and_realized
from analysis.figures.verdicts import over_snapshots as over_snapshots
from analysis.figures.verdicts import strengths as strengths
from analysis.figures.words import describe as describe
