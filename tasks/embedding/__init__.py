"""Embedding: adapters of a text encoder for dense retrieval or classification."""

from searchlora.tasks.embedding.task import EmbeddingTask

task = EmbeddingTask()
