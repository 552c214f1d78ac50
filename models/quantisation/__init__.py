"""Ranges and bit widths, and what makes few bits go further: what lowering is told."""
