"""Training of float networks in torch, which gives the same weights every time."""
