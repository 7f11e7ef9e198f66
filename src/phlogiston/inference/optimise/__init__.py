"""Climbing a density: L-BFGS, and normal approximations at the top."""
