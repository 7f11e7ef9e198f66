"""The methods that `infer` knows by name, one family a file."""
