"""Self-contained pages that a scientist would mail to a colleague."""
