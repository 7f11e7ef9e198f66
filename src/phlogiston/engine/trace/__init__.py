"""Readings of one draw recorded as graphs, mapped over many draws, compiled and kept."""
