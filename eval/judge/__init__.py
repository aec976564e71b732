"""How far a judge (an LLM, an adapter, a person) agrees with people: figures, intervals by query, order of systems."""
