"""Inference algorithms, one family a file; each is a frozen dataclass of settings that can be called on a model."""
