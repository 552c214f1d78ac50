"""Design-space exploration: searches for a network's design, and for networks."""
