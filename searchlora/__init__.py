"""searchlora: one base LLM, many small LoRA adapters, one per job of a search pipeline.

The verbs of the command line are functions of the same names, imported when first used:

    import searchlora
    searchlora.data.build("rewriting", source, format="pairs", out=folder)
    searchlora.train("rewriting", folder, "shop-rewriter")
    searchlora.sweep("rewriting", folder, "shop-rewriter", ["lora.r=1,4,16"])
    searchlora.improve("shop-rewriter@1", folder, "shop-rewriter")
    searchlora.evaluate("shop-rewriter", folder)
    searchlora.experiment("experiment.yaml", out)
    searchlora.promote("shop-rewriter@2", "production", "policy.yaml", folder)
    searchlora.run("rewrite_bm25", queries, corpus, out)
    searchlora.ablate("rewrite_bm25", topics, qrels, out, corpus=corpus)
    searchlora.build_index(corpus, "index", pipelines=["rewrite_bm25"])
    searchlora.Pipeline.load("rewrite_bm25", corpus="index").search("red telly")
    searchlora.adapters.list()
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from searchlora import adapters as adapters
    from searchlora import data as data
    from searchlora import shop as shop
    from searchlora.experiments.ablate import ablate as ablate
    from searchlora.experiments.demo import demo as demo
    from searchlora.experiments.evaluate import evaluate as evaluate
    from searchlora.experiments.experiment import experiment as experiment
    from searchlora.experiments.improve.command import improve as improve
    from searchlora.experiments.options import AblationOptions as AblationOptions
    from searchlora.experiments.options import DecisionOptions as DecisionOptions
    from searchlora.experiments.options import EvaluationOptions as EvaluationOptions
    from searchlora.experiments.options import TrainingOptions as TrainingOptions
    from searchlora.experiments.promote import promote as promote
    from searchlora.experiments.run import run as run
    from searchlora.experiments.spec import Experiment as Experiment
    from searchlora.experiments.sweep import sweep as sweep
    from searchlora.experiments.train import train as train
    from searchlora.pipelines.index_build import build_index as build_index
    from searchlora.pipelines.pipeline import Pipeline as Pipeline

__version__ = "0.1.0"

_VERBS = {
    "ablate": "searchlora.experiments.ablate",
    "train": "searchlora.experiments.train",
    "evaluate": "searchlora.experiments.evaluate",
    "experiment": "searchlora.experiments.experiment",
    "Experiment": "searchlora.experiments.spec",
    "improve": "searchlora.experiments.improve.command",
    "promote": "searchlora.experiments.promote",
    "run": "searchlora.experiments.run",
    "sweep": "searchlora.experiments.sweep",
    "AblationOptions": "searchlora.experiments.options",
    "DecisionOptions": "searchlora.experiments.options",
    "EvaluationOptions": "searchlora.experiments.options",
    "TrainingOptions": "searchlora.experiments.options",
    "Pipeline": "searchlora.pipelines.pipeline",
    "build_index": "searchlora.pipelines.index_build",
    "demo": "searchlora.experiments.demo",
}
_ROOMS = ("adapters", "data", "shop")


def __getattr__(name: str) -> Any:
    if name in _VERBS:
        return getattr(import_module(_VERBS[name]), name)
    if name in _ROOMS:
        return import_module(f"searchlora.{name}")
    raise AttributeError(f"module 'searchlora' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted([*globals(), *_VERBS, *_ROOMS])
