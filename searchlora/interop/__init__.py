"""Pipelines and stages in other libraries: PyTerrier transformers, LangChain and LlamaIndex retrievers."""
