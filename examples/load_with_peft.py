"""Load a stored adapter with plain PEFT and transformers: a version's folder is an ordinary PEFT folder."""

from __future__ import annotations

import sample
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from searchlora.models.resolve import resolve

adapter = sample.rewriter()
folder = resolve(adapter.manifest.base.name).path
base = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
tokenizer = AutoTokenizer.from_pretrained(folder)
model = PeftModel.from_pretrained(base, adapter.path).eval()

prompt = tokenizer("red telly", return_tensors="pt")
with torch.no_grad():
    adapted = model(**prompt).logits[0, -1]
    with model.disable_adapter():
        bare = model(**prompt).logits[0, -1]
print(f"{adapter.reference} changes the next token's logits by up to {(adapted - bare).abs().max():.2f}")
