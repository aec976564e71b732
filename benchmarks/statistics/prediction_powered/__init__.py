"""Prediction-powered intervals: whether they hold, and what a judge's labels are worth."""
