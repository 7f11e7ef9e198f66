"""Guides that are fitted by optimising a bound."""
