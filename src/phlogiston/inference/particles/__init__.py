"""Weighted draws: proposals, rejection, tempering and resampling."""
