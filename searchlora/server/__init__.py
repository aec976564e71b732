"""HTTP servers: the inference API and the grading page."""
