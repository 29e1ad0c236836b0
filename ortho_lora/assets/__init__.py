"""Packaged models and data, fetched from the ordinary registry of packages into a cache.

Imports `errors` alone. Start at `archives`.
"""
