"""The jobs that are killed: data build, training, store operations, judging, and executing a pipeline."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from tests.chaos.kills import Job
from tests.chaos.processes import Exit, command, execute

_WORDS = ("tent", "boot", "stove", "rope", "lamp", "sock", "axe", "map", "cup", "bag", "pan", "hat", "net", "saw")
_TRAINING = ("optim.max_steps=30", "optim.batch_size=8", "lora.r=4", "optim.learning_rate=5e-3")
_OFTEN = ("checkpoints.every_steps=5", "validation.every_steps=10", "validation.generate_rows=4")


class Inputs:
    """Tiny base, dataset and a stored adapter, made once and only read by the jobs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.base = folder / "bases" / "tiny"
        self.source = folder / "rows.jsonl"
        self.dataset = folder / "dataset"
        self.store = folder / "store"
        self.queries = folder / "queries.jsonl"
        self.corpus = folder / "corpus.jsonl"
        self.pairs = folder / "pairs.txt"
        self.pipeline = folder / "pipeline.yaml"
        self.encoder = folder / "encoders" / "encoder"
        self.encoder_source = folder / "encoder_rows.jsonl"
        self.encoder_dataset = folder / "encoder_dataset"

    def make(self) -> None:
        """Write all inputs, in child processes."""
        self.folder.mkdir(parents=True)
        texts = [f"{a} {b} {n}" for n, (a, b) in enumerate((a, b) for a in _WORDS for b in _WORDS)]
        rewrites = [{"query": f"{text} kicks", "rewrite": f"{text} shoes"} for text in texts]
        _write_rows(self.source, [{"id": f"r{n}", "group": f"g{n}", **row} for n, row in enumerate(rewrites)])
        _write_rows(self.queries, [{"id": f"q{n}", "query": text} for n, text in enumerate(texts)])
        _write_rows(self.corpus, [{"id": f"d{n}", "text": f"{t} for sale"} for n, t in enumerate(texts)])
        self.pairs.write_text("".join(f"q{n} d{(n * 7) % len(texts)}\n" for n in range(len(texts))), encoding="utf-8")
        stages = "  - adapter: {name: rewriter}\n  - bm25: {k: 10}\n"
        self.pipeline.write_text(f"name: p\nstages:\n{stages}", encoding="utf-8")
        positives = [
            {"id": f"e{n}", "group": f"e{n}", "query": t, "positives": [t.upper()]} for n, t in enumerate(texts)
        ]
        _write_rows(self.encoder_source, positives)
        for job in (self._build_base, self._build_dataset(), self._build_encoder_dataset(), self._train()):
            ended = execute(job, self.folder / "making")
            if ended.code != 0:
                raise RuntimeError(f"the inputs cannot be made: {ended.stderr}")

    def _build_base(self) -> None:
        from searchlora.testing import build_tiny_base, build_tiny_encoder

        build_tiny_base(self.base, hidden=64)
        build_tiny_encoder(self.encoder.parent)

    def _build_dataset(self) -> Callable[[], object]:
        return command("data", "build", "rewriting", self.source, "--format", "native", "--out", self.dataset)

    def _build_encoder_dataset(self) -> Callable[[], object]:
        source, out = self.encoder_source, self.encoder_dataset
        return command("data", "build", "embedding", source, "--format", "native", "--out", out)

    def _train(self) -> Callable[[], object]:
        settings = [part for each in ("optim.max_steps=2", "lora.r=2") for part in ("--set", each)]
        place = ("--base", self.base, "--store", self.store)
        return command("train", "rewriting", "--data", self.dataset, "--name", "rewriter", *place, *settings)


class DataBuild(Job):
    """`data build`: the folder appears complete or not at all."""

    name = "data build"

    def __init__(self, inputs: Inputs) -> None:
        rows = [json.loads(line) for line in inputs.source.read_text(encoding="utf-8").splitlines()]
        self.source = inputs.folder / "many.jsonl"
        many = [
            {**row, "id": f"{row['id']}-{n}", "group": f"{row['group']}-{n}", "query": f"{row['query']} {n} {n * 7}"}
            for n in range(30)
            for row in rows
        ]
        _write_rows(self.source, many)

    def start(self, folder: Path) -> Callable[[], object]:
        return command("data", "build", "rewriting", self.source, "--format", "native", "--out", folder / "data")

    def is_finished(self, folder: Path, ended: Exit) -> bool:
        return ended.code == 0 or (folder / "data").is_dir()

    def check_interrupted(self, folder: Path) -> None:
        if (folder / "data").exists():
            _verify_dataset(folder / "data")

    def digest(self, folder: Path) -> object:
        _verify_dataset(folder / "data")
        return {file.name: _sha256(file) for file in sorted((folder / "data").glob("*.jsonl"))}

    def leftovers(self, folder: Path) -> list[str]:
        beside = [each.name for each in folder.iterdir() if each.name not in ("data", "stdout", "stderr", "tmp")]
        return ["temporary files"] * any((folder / "tmp").iterdir()) + ["unfinished folder"] * bool(beside)


class Train(Job):
    """`train`: an interrupted run continues from its checkpoint and is stored exactly once."""

    name = "train"

    def __init__(self, inputs: Inputs) -> None:
        self.inputs = inputs

    def _command(self, folder: Path, *more: str) -> Callable[[], object]:
        settings = [part for each in (*_TRAINING, *_OFTEN) for part in ("--set", each)]
        place = ("--base", self.inputs.base, "--store", folder / "store")
        return command("train", "rewriting", "--data", self.inputs.dataset, "--name", "r", *place, *settings, *more)

    def start(self, folder: Path) -> Callable[[], object]:
        return self._command(folder)

    def resume(self, folder: Path) -> Callable[[], object]:
        began = (folder / "store" / ".runs" / "r" / "run.json").is_file() or (folder / "store" / "r" / "1").is_dir()
        return self._command(folder, "--resume") if began else self._command(folder)

    def check_interrupted(self, folder: Path) -> None:
        _check_store(folder / "store")

    def digest(self, folder: Path) -> object:
        from searchlora.adapters.store import Store

        _check_store(folder / "store")
        store = Store(folder / "store")
        stored = store.get("r")
        steps = [json.loads(line) for line in (stored.path / "metrics.jsonl").read_text("utf-8").splitlines()]
        return {
            "versions": store.versions("r"),
            "weights": _sha256(stored.path / "adapter_model.safetensors"),
            "best": stored.manifest.training["best"],
            "losses": [line["loss"] for line in steps if "loss" in line],
            "runs": (folder / "store" / ".runs" / "r").exists(),
        }

    def leftovers(self, folder: Path) -> list[str]:
        return ["temporary folder in the store"] * bool(list((folder / "store").rglob(".*.partial")))


class TrainEncoder(Train):
    """`train` of an encoder task."""

    name = "train encoder"

    def _command(self, folder: Path, *more: str) -> Callable[[], object]:
        chosen = ("optim.max_steps=40", "optim.batch_size=16", "lora.r=4", "validation.every_steps=10", "max_tokens=24")
        settings = [part for each in (*chosen, "checkpoints.every_steps=5") for part in ("--set", each)]
        place = ("--base", self.inputs.encoder, "--store", folder / "store")
        data = ("--data", self.inputs.encoder_dataset)
        return command("train", "embedding", *data, "--name", "r", *place, *settings, *more)


class StoreOperations(Job):
    """Adding, aliasing, rolling back and removing versions: every reader sees complete versions and valid aliases."""

    name = "store"

    def __init__(self, inputs: Inputs) -> None:
        self.inputs = inputs

    def start(self, folder: Path) -> Callable[[], object]:
        def job() -> None:
            from searchlora.adapters.store import Store

            source = Store(self.inputs.store).get("rewriter")
            store = Store(folder / "store")
            store.root.mkdir(parents=True, exist_ok=True)
            names = ("a", "b", "c")
            while (done := len(_history(folder))) < 60:
                name = names[done % 3]
                store.add(name, _plain(source.path, folder), source.manifest.draft())
                newest = store.versions(name)[-1]
                store.alias(name, "production", newest)
                if done % 4 == 3 and len(store.versions(name)) > 1:
                    store.rollback(name, "production")
                if done % 5 == 4:
                    removable = [v for v in store.versions(name) if v not in store.aliases(name).values()]
                    if removable:
                        store.remove(f"{name}@{removable[0]}")
                with (folder / "history.txt").open("a", encoding="utf-8") as out:
                    out.write(f"{done}\n")

        return job

    def check_interrupted(self, folder: Path) -> None:
        _check_store(folder / "store")

    def digest(self, folder: Path) -> object:
        from searchlora.adapters.store import Store

        _check_store(folder / "store")
        store = Store(folder / "store")
        return {
            "done": len(_history(folder)),
            "names": store.names(),
            "aliases": [*map(len, map(store.aliases, store.names()))],
        }

    def leftovers(self, folder: Path) -> list[str]:
        return ["temporary folder in the store"] * bool(list((folder / "store").rglob(".*.partial")))


class Judge(Job):
    """`judge`: a killed run continues, and its qrels and probabilities are the same bytes."""

    name = "judge"

    def __init__(self, inputs: Inputs) -> None:
        self.inputs = inputs

    def start(self, folder: Path) -> Callable[[], object]:
        made = self.inputs
        data = ("--topics", made.queries, "--corpus", made.corpus, "--pairs", made.pairs)
        judge = ("--base", made.base, "--task", "judgment", "--store", made.store)
        return command("judge", *judge, *data, "--out", folder / "qrels.txt")

    def is_finished(self, folder: Path, ended: Exit) -> bool:
        return ended.code == 0 or (folder / "qrels.txt").is_file()

    def check_interrupted(self, folder: Path) -> None:
        if (folder / "qrels.txt").exists():
            self.digest(folder)

    def digest(self, folder: Path) -> object:
        from searchlora.eval.judgments.card import read_card

        card = read_card(folder / "qrels.txt")
        assert card is not None, "qrels without a card"
        return {
            "qrels": _sha256(folder / "qrels.txt"),
            "probabilities": _sha256(folder / "qrels.txt.probabilities.jsonl"),
            "counts": dict(card.counts),
        }

    def leftovers(self, folder: Path) -> list[str]:
        del folder  # a kill after the qrels leaves the log of grades, which nothing reads any more
        return []


class ExecutePipeline(Job):
    """`run`: a killed run continues after its last batch; its files are the same bytes, and appear complete."""

    name = "run"

    def __init__(self, inputs: Inputs) -> None:
        self.inputs = inputs
        self.queries = inputs.folder / "many_queries.jsonl"
        rows = [json.loads(line) for line in inputs.queries.read_text(encoding="utf-8").splitlines()]
        _write_rows(self.queries, [{**row, "id": f"{row['id']}-{n}"} for n in range(4) for row in rows])

    def start(self, folder: Path) -> Callable[[], object]:
        made = self.inputs
        data = ("--queries", self.queries, "--corpus", made.corpus, "--store", made.store)
        outs = ("--out", folder / "run.trec", "--out", folder / "results.jsonl", "--trace", folder / "trace.jsonl")
        return command("run", made.pipeline, *data, *outs)

    def check_interrupted(self, folder: Path) -> None:
        if (folder / "run.trec").exists():
            self._run(folder)

    def digest(self, folder: Path) -> object:
        rows = map(json.loads, (folder / "trace.jsonl").read_text(encoding="utf-8").splitlines())
        trace = [{key: value for key, value in row.items() if key != "milliseconds"} for row in rows]
        return {**self._run(folder), "results": _sha256(folder / "results.jsonl"), "trace": trace}

    def _run(self, folder: Path) -> dict[str, object]:
        from searchlora.eval.judgments.card import read_run_card

        card = read_run_card(folder / "run.trec")
        assert card is not None, "a run without a card"
        return {"run": _sha256(folder / "run.trec"), "adapters": card.adapters}

    def leftovers(self, folder: Path) -> list[str]:
        hidden = [each.name for each in folder.iterdir() if each.name.startswith(".")]
        return ["unfinished folder or temporary files"] * bool(hidden)


class IndexBuild(Job):
    """`index build`: the folder appears complete or not at all."""

    name = "index build"

    def __init__(self, inputs: Inputs) -> None:
        self.inputs = inputs
        self.pipeline = inputs.folder / "searching.yaml"
        dense = {"dense": {"model": str(inputs.encoder), "index": "hnsw", "hnsw_m": 4, "batch_size": 2}}
        stages = [{"fuse": {"of": [{"bm25": {}}, dense]}}]
        self.pipeline.write_text(json.dumps({"name": "searching", "stages": stages}), encoding="utf-8")

    def start(self, folder: Path) -> Callable[[], object]:
        return command("index", "build", self.inputs.corpus, "--out", folder / "index", "--pipeline", self.pipeline)

    def check_interrupted(self, folder: Path) -> None:
        if (folder / "index").exists():
            self.digest(folder)

    def digest(self, folder: Path) -> object:
        from searchlora.errors import SearchloraError
        from searchlora.retrieval.index_folder import IndexFolder

        try:
            index = IndexFolder(folder / "index")
            index.verify()
        except SearchloraError as error:
            raise AssertionError(f"an index that is not complete: {error}") from error
        return {name: file.sha256 for name, file in index.manifest.files.items()}

    def leftovers(self, folder: Path) -> list[str]:
        beside = [each.name for each in folder.iterdir() if each.name not in ("index", "stdout", "stderr", "tmp")]
        return ["temporary files"] * any((folder / "tmp").iterdir()) + ["unfinished folder"] * bool(beside)


#: Name on the command line -> job.
JOBS: dict[str, Callable[[Inputs], Job]] = {
    "data": DataBuild,
    "train": Train,
    "encoder": TrainEncoder,
    "store": StoreOperations,
    "judge": Judge,
    "run": ExecutePipeline,
    "index": IndexBuild,
}


def _write_rows(file: Path, rows: Sequence[Mapping[str, object]]) -> None:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def _sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def _verify_dataset(folder: Path) -> None:
    from searchlora.data.dataset import load_dataset
    from searchlora.errors import SearchloraError

    try:
        load_dataset(folder).verify()
    except SearchloraError as error:
        raise AssertionError(f"a dataset that is not complete: {error}") from error


def _check_store(root: Path) -> None:
    """Every listed version is complete, its files are those of its manifest, and every alias points to one."""
    from searchlora.adapters.store import Store
    from searchlora.adapters.stored import check_hashes
    from searchlora.errors import SearchloraError

    store = Store(root)
    try:
        for name in store.names():
            for version in store.versions(name):
                check_hashes(store.get(f"{name}@{version}"))
            for alias, version in store.aliases(name).items():
                assert version in store.versions(name), (
                    f"{name}@{alias} points to version {version}, which is not there"
                )
    except SearchloraError as error:
        raise AssertionError(f"a store that cannot be read: {error}") from error


def _history(folder: Path) -> list[str]:
    file = folder / "history.txt"
    return file.read_text(encoding="utf-8").splitlines() if file.is_file() else []


def _plain(source: Path, folder: Path) -> Path:
    """A copy of a stored adapter's PEFT files."""
    import shutil

    target = folder / "peft"
    target.mkdir(exist_ok=True)
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        if not (target / name).is_file():
            temporary = target.with_suffix(f".{random.random()}")
            shutil.copyfile(source / name, temporary)
            temporary.replace(target / name)
    return target
