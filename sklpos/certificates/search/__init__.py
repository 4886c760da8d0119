"""Searches for inputs of small outputs: incomplete and complete ones."""
