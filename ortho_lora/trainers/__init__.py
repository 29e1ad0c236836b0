"""Training loops of others with a surgeon inside.

Imports `surgery`, `record` and `errors`. Start at `trainer`, a `transformers.Trainer`.
"""
