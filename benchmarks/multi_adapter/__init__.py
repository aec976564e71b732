"""Throughput of many adapters in one batch, compared with transformers and PEFT; see `__main__`."""
