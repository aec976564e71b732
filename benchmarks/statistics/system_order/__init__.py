"""The order of systems under people's grades and under judges' on Cranfield; see `__main__`."""
