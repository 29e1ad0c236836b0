"""What came of it: metrics over training, and runs that differ in method and seed alone, compared.

Imports `library`, `reading` and `statistics`. Start at `beside`.
"""
