"""Densities as machine code: recorded, rolled into loops, differentiated, and emitted without a compiler to install."""
