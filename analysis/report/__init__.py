"""A report on runs: one HTML file.

Imports `figures`, `output` and what is below them. Start at `page`.
"""
