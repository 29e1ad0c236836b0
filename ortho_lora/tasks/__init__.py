"""Tasks: their data from packages, files and the hub, twins with a dial for conflict, and metrics.

Imports `assets`, `record` and `errors`, and never torch. Start at `specs`, what a configuration says of a
task; `loading` makes data of it.
"""
