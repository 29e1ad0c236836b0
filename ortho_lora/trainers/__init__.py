"""Training loops of others with a surgeon inside.

Imports `surgery`, `record` and `errors`. Start at `watch`, for anyone's `transformers.Trainer`; `trainer` is one of
our own, and `inside` what both share.
"""
