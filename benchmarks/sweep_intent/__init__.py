"""Rank and target modules of an intent adapter (BANKING77): quality against parameters, memory and time."""
