"""Decisions of a promotion policy on the synthetic shop."""
