"""The record of a run on disk, written and read: its tables, parts, roll-ups and identity, and what a study plans.

Imports `errors` alone, and never torch. Start at `schema`, which draws the directory of a run; `recorder` writes one.
"""
