"""Agreement of an LLM judge with human judgments: statistics, intervals by query, order of systems, calibration."""
