"""Learning by comparison: a program is trained against a critic that tells its draws from data."""
