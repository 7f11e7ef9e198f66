"""Objectives of parameters: terms of the ELBO, of a minibatch, of one element, and steps that climb them."""
