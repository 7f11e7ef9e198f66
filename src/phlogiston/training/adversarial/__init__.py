"""Learning by comparison: a generator trained against a critic that sees draws and data."""
