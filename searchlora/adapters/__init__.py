"""Adapters: names, manifests, the store, and what must hold before one is loaded."""
