"""Draw several rewrites of a query, with their log-probabilities: temperature, a seed, and one prefill for all."""

from __future__ import annotations

import sample

from searchlora.inference.engine import Request
from searchlora.inference.local import LocalEngine
from searchlora.inference.sampling import Sampling
from searchlora.models.resolve import resolve
from searchlora.prompts import messages
from searchlora.task import load_generation_task

rewriter = sample.rewriter()
engine = LocalEngine(resolve(rewriter.manifest.base.name), sample.STORE)
task = load_generation_task("rewriting").bound(rewriter.manifest.settings, rewriter.manifest.tuned)
request = Request(
    messages(task, {"id": "1", "group": "1", "query": "pink telly"}),
    rewriter.reference,
    max_new_tokens=12,
    sampling=Sampling(temperature=0.8, top_p=0.95, seed=1, logprobs=0),
    stop=("\n",),
)

for future in engine.submit_answers(request, 4):
    completion = future.result()
    logprob = sum(token.logprob for token in completion.logprobs or ())
    print(f"{logprob:8.2f} nats  {completion.text!r}")
engine.close()
