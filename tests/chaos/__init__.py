"""Reliability tests outside the test suite: `python -m tests.chaos` kills real processes and compares the results."""
