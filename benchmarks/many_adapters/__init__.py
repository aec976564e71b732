"""Requests for more adapters than there are slots."""
