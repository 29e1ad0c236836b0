"""A step's gradients: taken apart by task, projected by a rule, measured and recorded.

Imports `record` and `errors`; `methods` is importable without torch. Start at `surgeon`, the object that a training
loop holds; `gram` and `projection` are the mathematics.
"""
