"""Arithmetic on arrays of draws and weights, without verdicts."""
