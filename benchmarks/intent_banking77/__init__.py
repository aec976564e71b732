"""Intent classification on BANKING77; see `__main__`."""
