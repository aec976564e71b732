"""Ask two adapters and the bare base model in one batch: one base in memory, no switching."""

from __future__ import annotations

import sample

from searchlora.inference.engine import Request
from searchlora.inference.local import LocalEngine
from searchlora.models.resolve import resolve
from searchlora.prompts import messages
from searchlora.task import load_generation_task

rewriter, intent = sample.rewriter(), sample.intent()
engine = LocalEngine(resolve(rewriter.manifest.base.name), sample.STORE)

requests = []
for adapter in (rewriter, intent, None):
    task = load_generation_task(adapter.manifest.task if adapter else "rewriting")
    task = task.bound(adapter.manifest.settings, adapter.manifest.tuned) if adapter else task
    record = {"id": "1", "group": "1", "query": "pink telly"}
    requests.append(Request(messages(task, record), adapter.reference if adapter else None, max_new_tokens=12))

for request, completion in zip(requests, engine.generate(requests), strict=True):
    print(f"{request.adapter or 'base model':18} {completion.text!r} ({completion.completion_tokens} tokens)")
engine.close()
