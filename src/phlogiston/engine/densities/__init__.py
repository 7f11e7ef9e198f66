"""Densities of draws: of one model, of a block of chains, of prior and likelihood apart, of many data sets."""
