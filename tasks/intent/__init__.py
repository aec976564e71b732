"""Intent: classification of queries by one label, several labels, or a JSON object by a user's schema."""

from searchlora.tasks.intent.task import IntentTask

task = IntentTask()
