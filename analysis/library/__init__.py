"""The runs of a directory: opened, listed, searched, annotated, told apart.

Imports `reading` and `statistics`. Start at `runs`.
"""
