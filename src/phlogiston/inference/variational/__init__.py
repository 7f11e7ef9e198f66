"""Guides that are fitted by climbing a bound."""
