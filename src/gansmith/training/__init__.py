"""Training: the loop, its state and everything it writes."""
