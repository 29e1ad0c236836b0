"""What a study shows: methods compared over seeds, with what is and what is not known.

Imports `figures`, `output` and what is below them. Start at `findings`, which answers everything.
"""
