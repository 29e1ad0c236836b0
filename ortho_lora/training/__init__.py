"""Runs of this project: configured, trained, probed, resumed.

Imports every package below it: `surgery`, `tasks`, `launching`, `assets`, `record`. Start at `config`, all settings,
and `session`, which trains.
"""
