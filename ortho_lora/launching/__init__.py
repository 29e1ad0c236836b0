"""Processes that train: started, queued, stopped, and what they say meanwhile.

Imports `record` and `errors`, and never torch. Start at `queue`.
"""
