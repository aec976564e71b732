"""Slices in which one way of searching movies loses against another."""
