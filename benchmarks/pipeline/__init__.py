"""Throughput of a pipeline with four adapters, against the same pipeline on PEFT with `set_adapter`; see `__main__`."""
