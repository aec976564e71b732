"""Coverage of intervals and level of tests, by simulation."""
