"""Studies: many runs that answer one question, planned from one file, trained side by side, and chosen fairly.

Imports `training.config`, `launching`, `record` and `errors`; its runs are processes of their own. Start at `run`.
"""
