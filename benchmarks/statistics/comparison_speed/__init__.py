"""Time and memory of a large comparison."""
