"""Compression: float networks with fewer weights, before they are made integer."""
