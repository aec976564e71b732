"""A promotion policy at work on the made shop."""
