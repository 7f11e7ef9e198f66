"""The methods that `infer` knows by name, one family per file."""
