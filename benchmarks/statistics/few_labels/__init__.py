"""Decisions from few labels: coverage of the watched interval, false decisions, and labels needed."""
