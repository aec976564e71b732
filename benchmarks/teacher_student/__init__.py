"""How many labels an intent needs, and what labels of a teacher are worth."""
