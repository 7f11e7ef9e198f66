"""The library's version, which its metadata, its files and its command line all state."""

__version__ = "0.1.0"
