"""Naming 77 intents on BANKING77: the base zero-shot, one adapter with and without constraint, and no model at all."""
