"""Pipelines: a list of stages over a batch of searches, written as YAML, and the ready ones beside this file."""
