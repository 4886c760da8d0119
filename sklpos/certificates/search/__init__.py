"""Incomplete and complete searches for inputs with small outputs."""
