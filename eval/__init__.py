"""Offline evaluation: runs, qrels and grades come in as data, no model is ever loaded."""
