"""Means, cosines and scores with intervals, and the one judge of them.

Imports nothing of this project. Start at `judge`.
"""
