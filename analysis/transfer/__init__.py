"""What one task does to another, in nats of its validation loss: predicted from snapshots, and as it came.

Imports `library` and `reading`. Start at `predicted`, and at `realized` for a lookahead.
"""
