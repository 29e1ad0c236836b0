"""Runs that the dashboard launches: the form, own data, the processes, and how they get on.

Imports `shared`. Start at `launcher`.
"""
