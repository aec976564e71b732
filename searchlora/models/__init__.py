"""Resolving, fingerprinting and loading base models."""
