"""The MCMC speed benchmark's parts: targets, one module a peer, and the measurement of one peer on one target."""
