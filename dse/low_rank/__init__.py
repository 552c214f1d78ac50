"""Searches over low-rank decompositions, all on the real timing and resource models."""
