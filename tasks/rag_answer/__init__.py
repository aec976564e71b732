"""Answers from passages: what was found becomes an answer that cites it, or says that it is not there."""

from searchlora.tasks.rag_answer.task import RagAnswerTask

task = RagAnswerTask()
