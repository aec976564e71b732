"""One base model and many adapters in one batch: what `LocalEngine` computes with.

`projections` and `routing` hold the adapters, `key_values`, `attention` and `prefixes` what was read before, `forward`
runs the model over them, `scheduler` decides which rows are computed when.
"""
