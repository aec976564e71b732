"""Embedding: an encoder's adapter for a team's own texts, for dense retrieval or for classes."""

from searchlora.tasks.embedding.task import EmbeddingTask

task = EmbeddingTask()
