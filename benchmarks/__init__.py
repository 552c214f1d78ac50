"""What produces every figure that README and docs quote; each takes --quick."""
