"""Listing of a store with many adapters."""
