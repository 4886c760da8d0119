"""Bounds of what a network computes over boxes, balls and hulls."""
