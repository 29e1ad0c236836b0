"""Verdicts on pairs of tasks, what to do about them, and both in words.

Imports `conflict`, `outcomes` and what is below them. Start at `diagnose`.
"""
