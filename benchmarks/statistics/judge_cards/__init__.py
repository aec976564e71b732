"""Agreement of the LLM judges of LLMJudge with NIST assessors."""
