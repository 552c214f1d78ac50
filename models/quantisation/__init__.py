"""What lowering is told: ranges and bit widths, and ways to lose less with few bits."""
