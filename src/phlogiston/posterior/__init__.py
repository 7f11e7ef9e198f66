"""The result: draws with their weights, statistics and provenance, and what is read off them."""
