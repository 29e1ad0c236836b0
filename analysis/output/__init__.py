"""What the figures show as tables: for files, and for a terminal.

Imports `diagnosis` and what is below it. Start at `data`, the list of all that can be exported.
"""
