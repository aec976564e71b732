"""What recording and shadow searches cost a server; see `__main__`."""
