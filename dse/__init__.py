"""Design-space exploration: totals of a design, and the searches over foldings."""
