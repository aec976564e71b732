"""Offline evaluation from runs, qrels and grades; loads no model."""
