"""Intent: what a query wants, as one label, several labels, or a JSON object by a schema of one's own."""

from searchlora.tasks.intent.task import IntentTask

task = IntentTask()
