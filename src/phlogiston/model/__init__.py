"""The program: a Pyro program bound to inputs and observations, and what is checked of it before anything runs."""
