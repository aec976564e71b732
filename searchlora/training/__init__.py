"""Training adapters. Validation comes in as a callback, so this room knows no evaluator."""
