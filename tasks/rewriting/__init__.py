"""Query rewriting: a query and its conversation become one self-contained query."""

from searchlora.tasks.rewriting.task import RewritingTask

task = RewritingTask()
