"""Query rewriting: what the user typed, in its conversation, becomes a query that finds."""

from searchlora.tasks.rewriting.task import RewritingTask

task = RewritingTask()
