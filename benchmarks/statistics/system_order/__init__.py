"""Order of systems under human grades and under judges on Cranfield; see `__main__`."""
