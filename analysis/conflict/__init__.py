"""What was recorded of gradients: cosines of pairs, by layer and over steps, projections, and other rules replayed.

Imports `library`, `reading` and `statistics`. Start at `queries`.
"""
