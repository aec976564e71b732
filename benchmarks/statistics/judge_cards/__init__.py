"""The LLM judges of LLMJudge against the grades of NIST's assessors."""
