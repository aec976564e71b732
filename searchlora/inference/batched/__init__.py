"""Batched model runner: one base model and many LoRA adapters in one batch.

`lora_layers` applies each row's adapter, `kv_cache`, `attention` and `prefix_cache` hold what was
computed before, `forward` runs the model over them, `admission` decides what a step begins, and `model_runner` combines
prefill, `chunked_prefill` of long prompts, decode and choice scoring.
"""
