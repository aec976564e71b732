"""Contract of every verb that computes adapters: a local engine and a server with the same settings give equal results.

A new verb is one more test here; a new kind of engine is one more line in `ENGINES`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from searchlora.adapters.operations import store_adapter
from searchlora.adapters.store import Store
from searchlora.data.building import build
from searchlora.errors import DataError, EngineError
from searchlora.eval.judgments.card import read_card, read_run_card
from searchlora.eval.policy import Policy
from searchlora.experiments import reports
from searchlora.experiments.evaluate import evaluate
from searchlora.experiments.experiment import experiment
from searchlora.experiments.improve.command import improve
from searchlora.experiments.judge.command import judge
from searchlora.experiments.options import EvaluationOptions, TrainingOptions
from searchlora.experiments.promote import promote
from searchlora.experiments.run import run
from searchlora.experiments.tune import tune
from searchlora.files.yaml_text import parse_yaml
from searchlora.inference.settings import EngineSettings, LocalSettings, ServerSettings
from searchlora.models.resolve import BaseModel
from searchlora.pipelines.config import read_pipeline
from searchlora.task import GenerationTask, load_generation_task
from tests.factories import random_adapter_folder
from tests.server.api.serving import made_service, served
from tests.tasks.rag_answer.made import usual_rows, write_mtrag

pytestmark = pytest.mark.slow

ENGINES = ("local", "server")
ROWS = 12


@dataclass(frozen=True)
class Shop:
    """A store with a rewriter, a judge and an answering adapter of random weights, data, and an engine of each kind."""

    root: Path
    store: Store
    engines: dict[str, EngineSettings]
    engine_id: dict[str, str]

    @property
    def data(self) -> Path:
        return self.root / "data"


def store_made(store: Store, name: str, task: GenerationTask, base: BaseModel, folder: Path, seed: int) -> None:
    made, recipe = random_adapter_folder(base, folder, seed, ("precision=fp32", "max_new_tokens=10"))
    store_adapter(store, name, made, task=task, recipe=recipe, base=base)


def write_rows(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def write_data(root: Path) -> None:
    """Queries that are rewritten, documents to search in, judgments, and a dataset of all."""
    words = [f"kicks{letter}" for letter in "abcdefghijkl"]
    splits = ["train"] * 4 + ["validation"] * 4 + ["test"] * 4
    rows = [
        {"id": f"r{n}", "group": f"g{n}", "query": f"red {word}", "rewrite": "red", "split": splits[n]}
        for n, word in enumerate(words)
    ]
    documents = [{"id": "shoe", "text": "red"}, *({"id": f"k{n}", "text": f"red {w}"} for n, w in enumerate(words))]
    write_rows(root / "docs.jsonl", documents)
    write_rows(root / "queries.jsonl", [{"id": row["id"], "query": row["query"]} for row in rows])
    (root / "qrels.txt").write_text("".join(f"r{n} 0 shoe 1\n" for n in range(ROWS)), encoding="utf-8")
    (root / "pairs.txt").write_text("".join(f"r{n} k{n}\nr{n} shoe\n" for n in range(ROWS)), encoding="utf-8")
    source = write_rows(root / "rows.jsonl", rows)
    collection = {"corpus": root / "docs.jsonl", "qrels": root / "qrels.txt"}
    build("rewriting", source, format="native", out=root / "data", **collection)


@pytest.fixture(scope="module")
def shop(tiny_base: BaseModel, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    root = tmp_path_factory.mktemp("verbs")
    store = Store(root / "store")
    write_data(root)
    judging = load_generation_task("judgment")
    tasks = {
        "rewriter": load_generation_task("rewriting"),
        "grader": judging.bound(judging.settings_of({"grades": "2"}, ())),
        "answerer": load_generation_task("rag_answer"),
    }
    for seed, (name, task) in enumerate(tasks.items(), 1):
        store_made(store, name, task, tiny_base, root / name, seed)
    service = made_service(tiny_base, store, batch_invariant=True, max_num_seqs=16)
    with served(service) as url:
        engines = {"local": LocalSettings(max_num_seqs=8, max_loras=2), "server": ServerSettings(url=url)}
        engine_id = {"local": "local, fp32", "server": f"{url}, searchlora, {service.base}, fp32"}
        yield Shop(root, store, engines, engine_id)


def test_evaluate(shop, tmp_path):
    found = {
        name: evaluate(
            "rewriter", shop.data, EvaluationOptions(cache_dir=tmp_path / "outputs"), engine=engine, store=shop.store
        )
        for name, engine in shop.engines.items()
    }
    outputs = {
        name: {system: result.outputs for system, result in evaluated.systems.items()}
        for name, evaluated in found.items()
    }
    assert outputs["local"] == outputs["server"]
    assert outputs["local"]["rewriter@1"] != outputs["local"]["base zero-shot"]
    figures = [[row for row in each.comparison.rows if "per query" not in row.measure] for each in found.values()]
    assert figures[0] == figures[1]
    for name, evaluated in found.items():
        assert evaluated.engines == (shop.engine_id[name],)
        assert evaluated.reused == ()  # the outputs of the other engine are not taken for its own
    assert shop.store.evaluations("rewriter")[-1].engine == shop.engine_id["server"]
    again = evaluate(
        "rewriter",
        shop.data,
        EvaluationOptions(cache_dir=tmp_path / "outputs"),
        engine=shop.engines["server"],
        store=shop.store,
    )
    assert set(again.reused) == {"base zero-shot", "rewriter@1"}


def test_evaluate_without_settings_computes_locally_in_the_precision_of_the_recipe(shop):
    assert evaluate("rewriter", shop.data, EvaluationOptions(limit=1), store=shop.store).engines == ("local, fp32",)


def test_promote(shop):
    found = {
        name: promote("rewriter@1", f"at-{name}", Policy(), shop.data, engine=engine, store=shop.store)
        for name, engine in shop.engines.items()
    }
    assert found["local"].results == found["server"].results
    for name, promoted in found.items():
        assert promoted.move.decision is not None
        assert promoted.move.decision.evidence["engines"] == [shop.engine_id[name]]


def judged(shop: Shop, out: Path, engine: EngineSettings | None, **more: Any) -> Any:
    judges = more or {"adapter": "grader"}
    files = (shop.root / "queries.jsonl", shop.root / "docs.jsonl", out)
    return judge(*files, pairs=shop.root / "pairs.txt", engine=engine, store=shop.store, **judges)


def test_judge(shop, tmp_path):
    for name, engine in shop.engines.items():
        judged(shop, tmp_path / f"{name}.txt", engine)
        card = read_card(tmp_path / f"{name}.txt")
        assert card is not None and card.engine == shop.engine_id[name]
    local, server = ((tmp_path / f"{name}.txt") for name in shop.engines)
    assert local.read_bytes() == server.read_bytes()
    probabilities = [Path(f"{file}.probabilities.jsonl").read_bytes() for file in (local, server)]
    assert probabilities[0] == probabilities[1]


def test_judge_with_a_bare_base(shop, tiny_base, tmp_path):
    """Its recipe is the task's, in bf16; the server computes in fp32, and so does the local engine when told to."""
    options = {"base": str(tiny_base.path), "task": "judgment"}
    judged(shop, tmp_path / "local.txt", LocalSettings(precision="fp32"), **options)
    judged(shop, tmp_path / "server.txt", shop.engines["server"], **options)
    assert (tmp_path / "local.txt").read_bytes() == (tmp_path / "server.txt").read_bytes()


def write_experiment(folder: Path, shop: Shop, **changes: Any) -> Path:
    files = {name: str(shop.root / file) for name, file in
             {"topics": "queries.jsonl", "qrels": "qrels.txt", "corpus": "docs.jsonl"}.items()}  # fmt: skip
    systems = {"raw": {"pipeline": "bm25"}, "rewritten": {"adapter": "rewriter"}}
    spec = {"name": "shop", **files, "systems": systems, "baseline": "raw", "measures": ["MRR@10"], **changes}
    (folder / "experiment.yaml").write_text(yaml.safe_dump(spec))
    return folder / "experiment.yaml"


def test_an_experiment_compares_engines_and_reuses_runs_of_the_same_one(shop, tmp_path):
    engines: dict[str, dict[str, Any]] = {
        "own": {},
        "server": {"engine": shop.engines["server"].model_dump(exclude_defaults=True)},
        "bf16": {"engine": {"precision": "bf16"}},
    }
    systems = {name: {"adapter": "rewriter", **engine} for name, engine in engines.items()}
    spec = write_experiment(tmp_path, shop, systems=systems, baseline="own", engine={"max_num_seqs": 2})
    found = experiment(spec, tmp_path / "out", store=shop.store)
    cards = {name: read_run_card(source.path) for name, source in found.runs.items()}
    used = {name: card.engines for name, card in cards.items() if card is not None}
    assert used == {
        "own": (shop.engine_id["local"],), "server": (shop.engine_id["server"],), "bf16": ("local, bf16",)
    }  # fmt: skip
    plain = write_experiment(tmp_path, shop, systems=systems, baseline="own")
    again = experiment(plain, tmp_path / "out", store=shop.store)  # sizes of an engine do not matter
    assert set(again.reused) == {"own", "server", "bf16"}
    reports.write_experiment(again, tmp_path / "out")
    with pytest.raises(DataError, match="system own was"):  # the engine of the baseline is an input
        experiment(plain, tmp_path / "out", engine=LocalSettings(quantization="nf4"), store=shop.store)
    other = LocalSettings(quantization="nf4")
    changed = experiment(plain, tmp_path / "out", engine=other, accept_changes=True, store=shop.store)
    assert set(changed.reused) == {"server", "bf16"}


def test_run(shop, tmp_path):
    for name, engine in shop.engines.items():
        out = [tmp_path / f"{name}.trec", tmp_path / f"{name}.jsonl"]
        config = read_pipeline("rewrite_bm25", ["adapter=rewriter"], engine)
        run(config, shop.root / "queries.jsonl", shop.root / "docs.jsonl", out, store=shop.store)
    for kind in ("trec", "jsonl"):
        local, server = ((tmp_path / f"{name}.{kind}").read_bytes() for name in shop.engines)
        assert local == server
    card = read_run_card(tmp_path / "server.trec")
    assert card is not None and card.engines == (shop.engine_id["server"],)


def test_search(shop, tmp_path, cli, refused):
    (tmp_path / "engine.yaml").write_text("max_num_seqs: 4\nprefix_tokens: 0\n")
    command = ("search", "rewrite_bm25", "red kicksa", "--corpus", shop.root / "docs.jsonl", "--store", shop.store.root)
    command = (*command, "--set", "adapter=rewriter", "--json")
    url = shop.engines["server"].url
    ways = (
        ("--engine", "{max_num_seqs: 4}"), ("--engine", tmp_path / "engine.yaml"), ("--server", url),
        ("--engine", f"{{url: '{url}'}}"), ("--server", url, "--engine", "{concurrency: 3}"),
    )  # fmt: skip
    called = [cli(*command, *way) for way in ways]
    assert [each.code for each in called] == [0] * len(ways), called
    assert len({each.out for each in called}) == 1
    for way, says in (
        (("--engine", "{rows: 4}"), "--engine: 'rows'"),
        (("--engine", "{kind: local}", "--server", url), "'url'"),
        (("--engine", "{max_num_seqs: 4}", "--api-key-env", "KEY"), "'api_key_env'"),
        (("--engine", tmp_path / "none.yaml"), "none.yaml"),
        (("--engine", "{max_num_seqs: ["), "--engine: is not YAML"),
    ):
        assert says in refused(*command, *way)


def test_tune(shop, tmp_path):
    options = {"missing": "0.6", "passages": "3", "gold": "1", "abstention": "No."}
    source = write_mtrag(tmp_path / "reference.jsonl", usual_rows())
    build("rag_answer", source, format="mtrag", out=tmp_path / "data", options=options, split_ratios=(0.2, 0.7, 0.1))
    overrides = ("adapter=answerer", "judge=grader", "depth=3")
    tuned = {}
    for name, engine in shop.engines.items():
        config = read_pipeline("answers_judged", overrides, engine)
        tuned[name] = dict(tune(config, tmp_path / "data", tmp_path / f"{name}.yaml", store=shop.store).tuned)
    origins = {name: values.pop("origin") for name, values in tuned.items()}
    assert tuned["local"] == tuned["server"]
    assert {name: origin["engines"] for name, origin in origins.items()} == {
        name: [engine_id] for name, engine_id in shop.engine_id.items()
    }
    assert "engine" not in parse_yaml((tmp_path / "server.yaml").read_bytes())


IMPROVING = (
    "optim.max_steps=4", "optim.batch_size=4", "lora.r=2", "method=lora", "precision=fp32", "max_new_tokens=8",
    "improve.rounds=2", "improve.samples=1", "improve.patience=2", "improve.min_reward=-1",
)  # fmt: skip


def test_improve(shop, tiny_base):
    """With one sample for each row, the samples are equal, and with them all that follows."""
    options = TrainingOptions(IMPROVING, base=str(tiny_base.path))
    found = {}
    for name, engine in shop.engines.items():
        stored = improve(None, shop.data, f"improved-{name}", options, engine=engine, store=shop.store)
        found[name] = stored.manifest.training["improve"]
    rounds = {
        name: [(each["candidates"], each["winners"], each["validation"]) for each in about["rounds"]]
        for name, about in found.items()
    }
    assert rounds["local"] == rounds["server"]
    assert rounds["local"][1][0]["valid"] is not None  # the second round has sampled from the first one's adapter
    assert {name: about["engine"] for name, about in found.items()} == shop.engine_id


def test_several_answers_to_a_request_differ_on_each_engine(shop, tiny_base):
    from searchlora.inference.engine import Request
    from searchlora.inference.engines import make_engine
    from searchlora.inference.sampling import Sampling

    asked = [
        Request(({"role": "user", "content": text},), "rewriter", 10, sampling=Sampling(1.0, seed=5))
        for text in ("red", "tent")
    ]
    first = []
    for settings in shop.engines.values():
        engine = make_engine(settings, tiny_base, shop.store, precision="fp32")
        answers = engine.generate_answers(asked, 3)
        assert [len({each.text for each in of_request}) for of_request in answers] == [3, 3]
        first.append([of_request[0] for of_request in answers])
        engine.close()
    assert first[0] == first[1]


def test_a_server_with_another_base_is_refused_before_anything_is_reused(shop, tmp_path):
    other = shop.engines["server"].model_copy(update={"model": "another"})
    with pytest.raises(EngineError, match="the server has no base 'another'"):
        evaluate("rewriter", shop.data, EvaluationOptions(cache_dir=tmp_path), engine=other, store=shop.store)
