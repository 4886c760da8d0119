"""Training with skorch: the net, its steps, its state."""
