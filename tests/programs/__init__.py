"""Programs in the style of Pyro's tutorials, examples and tests, each held to Pyro's own density."""
