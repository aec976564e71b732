"""Load a stored adapter and its base with plain PEFT: `adapters.path` is a folder that AutoPeftModel takes."""

from __future__ import annotations

import sample
import torch
from peft import AutoPeftModelForCausalLM
from transformers import AutoTokenizer

from searchlora import adapters

adapter = sample.rewriter()
model = AutoPeftModelForCausalLM.from_pretrained(adapters.path(adapter.reference), dtype=torch.float32).eval()
tokenizer = AutoTokenizer.from_pretrained(adapters.base_path(adapter.reference))

prompt = tokenizer("red telly", return_tensors="pt")
with torch.no_grad():
    adapted = model(**prompt).logits[0, -1]
    with model.disable_adapter():
        bare = model(**prompt).logits[0, -1]
print(f"{adapter.reference} changes the next token's logits by up to {(adapted - bare).abs().max():.2f}")
