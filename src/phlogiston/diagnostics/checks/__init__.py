"""Single checks, each a pure function of arrays that returns a `Check`."""
