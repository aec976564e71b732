"""Listing of a store with many adapters: the first listing of a machine, later ones, and the aliases of requests.

    python -m benchmarks.fleet_store [--adapters 10000] [--repeats 5] [--try]

Each adapter is one version with a manifest of 18 kB (the size that training writes) and the alias `production`; one in
ten has two versions. Weights are left out, because no listing reads them. A *new process* reads the cached summaries
from the disk; a *running process*, such as a server, has them in memory. After a change, another process has moved one
alias. *alias of a request* is the time in which `NAME@production` becomes an exact version.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.common import WORK, parser, print_or_save_speeds
from benchmarks.speed import speed_row
from searchlora.adapters.aliases import AliasHistory
from searchlora.adapters.manifest import (
    Base,
    Dataset,
    Golden,
    GoldenLogits,
    GoldenRender,
    Manifest,
    Precision,
    manifest_json,
)
from searchlora.adapters.store import Store
from searchlora.models.fingerprint import Fingerprint

MANIFEST_BYTES = 18_000


def main() -> None:
    arguments = parser("fleet_store")
    arguments.add_argument("--adapters", type=int, default=10_000)
    arguments.add_argument("--repeats", type=int, default=5)
    arguments.add_argument("--try", action="store_true", dest="trial", help="print only")
    options = arguments.parse_args()
    work = WORK / "fleet_store"
    os.environ["SEARCHLORA_CACHE"] = str(work / "cache")
    shutil.rmtree(work / "cache", ignore_errors=True)
    root = work / f"store-{options.adapters}"
    write_store(root, options.adapters)
    time.sleep(3)  # files that have just changed are read again
    measured = {
        "first listing of a machine": [_seconds(Store(root).list)],
        "listing in a new process": [_seconds(Store(root).list) for _ in range(options.repeats)],
    }
    running = Store(root)
    entries = running.list()
    measured["listing in a running process"] = [_seconds(running.list) for _ in range(options.repeats)]
    measured["listing after a change"] = []
    for repeat in range(options.repeats):
        Store(root).alias(_name(repeat), "production", 1, reason="again")
        measured["listing after a change"].append(_seconds(running.list))
    references = [f"{entry.name}@production" for entry in entries][:1000]
    pins = [_seconds(lambda: [running.pin(reference) for reference in references]) for _ in range(options.repeats)]
    system = f"store of {options.adapters:,} adapters"
    rows = [speed_row(system, f"{name}, s", values) for name, values in measured.items()]
    rows.append(speed_row(system, "alias of a request, ms", [1000 * value / len(references) for value in pins]))
    print_or_save_speeds("fleet_store", rows, [], {"stored_versions": len(entries)}, trial=options.trial)


def write_store(root: Path, count: int) -> None:
    """Write manifests and aliases of a store, unless it is complete."""
    done = root.parent / f"{root.name}.done"
    if done.exists():
        return
    shutil.rmtree(root, ignore_errors=True)
    text = manifest_json(_manifest())
    for number in range(count):
        folder = root / _name(number)
        for version in (1, 2) if number % 10 == 0 else (1,):
            (folder / str(version)).mkdir(parents=True)
            values = json.loads(text) | {"name": folder.name, "version": version}
            (folder / str(version) / "searchlora.json").write_text(json.dumps(values, indent=2), encoding="utf-8")
        AliasHistory.read(folder).move("production", 1, "first release")[0].write()
    done.touch()


def _name(number: int) -> str:
    return f"adapter-{number:05d}"


def _manifest() -> Manifest:
    """A manifest of the size that training writes: golden records take most of it."""
    render = GoldenRender(record={"query": "red tent"}, token_ids=list(range(1000, 1250)), prompt_length=200)
    logits = GoldenLogits(ids=list(range(50)), logits=[number / 7 for number in range(50)], base_difference=1.5)
    records = 1
    while True:
        golden = Golden(renders=[render] * records, logits=[logits] * records)
        manifest = Manifest(
            task="rewriting",
            task_version=1,
            base=Base(
                name="smollm2-135m-instruct-q4_1",
                fingerprint=Fingerprint(
                    architecture="LlamaForCausalLM",
                    tensors="a" * 64,
                    tokenizer="b" * 64,
                    template="c" * 64,
                    config="d" * 64,
                ),
            ),
            recipe={"method": "qlora", "precision": "bf16", "max_new_tokens": 64},
            trained=Precision(quantization="nf4", precision="bf16"),
            dataset=Dataset(fingerprint="d" * 64),
            golden=golden,
            metrics={f"measure {number}": number / 7 for number in range(6)},
            name="adapter",
            version=1,
            created="2026-11-29T12:00:00+00:00",
            versions={"searchlora": "0.1"},
        )
        if len(manifest_json(manifest)) >= MANIFEST_BYTES:
            return manifest
        records += 1


def _seconds(call: Callable[[], object]) -> float:
    begun = time.perf_counter()
    call()
    return time.perf_counter() - begun


if __name__ == "__main__":
    main()
