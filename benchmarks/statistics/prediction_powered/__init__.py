"""Prediction-powered intervals: coverage, and the value of a judge's labels."""
