"""Seconds of jobs beside a busy process; see `__main__`."""
