"""LLM judging: grading query-passage pairs by a model, and the judgments that evaluations are measured by."""
