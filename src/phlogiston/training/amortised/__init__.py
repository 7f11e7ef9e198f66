"""Guides that read the data: an encoder from each element's data to its latents."""
