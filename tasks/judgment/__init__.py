"""Relevance judgment: query and passage become a grade, with the probability of each grade."""

from searchlora.tasks.judgment.task import JudgmentTask

task = JudgmentTask()
