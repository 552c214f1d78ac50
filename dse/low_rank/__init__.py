"""Searches over low-rank decompositions; hardware is designed for what they choose."""
