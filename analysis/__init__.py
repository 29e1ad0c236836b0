"""Ask the records of runs: which tasks conflict, where, since when, and whether it is more than noise.

Importing this package imports no torch; it reads what `ortho_lora.record.schema` describes and nothing else.
"""
