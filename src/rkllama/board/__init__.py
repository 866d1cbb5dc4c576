"""The board: what it says of itself, its clocks, and why it is slow or a model fails."""
