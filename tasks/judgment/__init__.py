"""Relevance judgment: the grade of a passage for a query, with the probability of each grade."""

from searchlora.tasks.judgment.task import JudgmentTask

task = JudgmentTask()
