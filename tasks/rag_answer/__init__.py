"""Answering from passages: an answer with citations, or an abstention."""

from searchlora.tasks.rag_answer.task import RagAnswerTask

task = RagAnswerTask()
