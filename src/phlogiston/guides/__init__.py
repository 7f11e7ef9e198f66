"""Guides: families of approximate posteriors, as settings that build one for a model."""
