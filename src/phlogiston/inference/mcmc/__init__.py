"""Markov chains: transition kernels, adaptation, and the blocks of chains that run them."""
