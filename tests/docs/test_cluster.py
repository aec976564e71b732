"""The Slurm array and the Kubernetes job of `docs/deployment` judge their shards, and the merge joins them."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys

import pyarrow
import pyarrow.parquet
import pytest
import yaml

from searchlora.adapters.store import Store
from searchlora.eval.formats import read_qrels
from searchlora.files.shards import PART_ROWS
from searchlora.pipelines.index_build import build_index
from searchlora.task import load_generation_task
from tests.docs.blocks import ROOT
from tests.factories import random_adapter

FOLDER = ROOT / "docs" / "deployment"
JOB = yaml.safe_load((FOLDER / "judge-job.yaml").read_text(encoding="utf-8"))
ARRAY = (FOLDER / "judge-array.sbatch").read_text(encoding="utf-8")
PAGE = (ROOT / "docs" / "how-to" / "cluster.md").read_text(encoding="utf-8")


@pytest.fixture
def folder(tmp_path, tiny_base):
    """The files that the jobs name, and a `searchlora` on the path."""
    random_adapter(
        Store(tmp_path / "store"), "shop-judge", load_generation_task("judgment"), tiny_base, tmp_path / "made", 0
    )
    topics = [{"id": f"t{n}", "query": f"a tent of kind {n}"} for n in range(3)]
    documents = [{"id": f"d{n}", "title": f"Tent {n}", "text": f"It sleeps {n}."} for n in range(20)]
    for name, rows in (("topics", topics), ("docs", documents)):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    build_index(tmp_path / "docs.jsonl", tmp_path / "index")
    pairs = [{"topic": topic["id"], "document": document["id"]} for document in documents for topic in topics]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(pairs), tmp_path / "pairs.parquet")
    command = tmp_path / "bin" / "searchlora"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m searchlora "$@"\n', encoding="utf-8")
    command.chmod(0o755)
    return tmp_path


def _execute(folder, words, **variables):
    path = f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT), **variables}
    done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_the_shards_of_both_files_are_judged_and_merged(folder, cli):
    (container,) = JOB["spec"]["template"]["spec"]["containers"]
    said = _execute(folder, [*container["command"], *container["args"]], JOB_COMPLETION_INDEX="99")
    assert said.strip() == "Shard 100/100 of llm.txt is complete. When all are: searchlora merge llm.txt"
    script = ["bash", "-c", ARRAY.replace("SHARDS=100", "SHARDS=2")]
    for number in ("1", "2"):  # submitted one by one, so that Slurm counts one task
        said = _execute(folder, script, SLURM_ARRAY_TASK_ID=number, SLURM_ARRAY_TASK_COUNT="1")
        assert f"Shard {number}/2 of llm.txt is complete" in said
    merged = cli("merge", folder / "llm.txt")
    assert "Wrote 60 judgments of shop-judge@1" in merged.out, merged.err
    assert {len(documents) for documents in read_qrels(folder / "llm.txt").values()} == {20}


def test_the_kubernetes_job_is_indexed_and_its_volume_is_mounted():
    spec, pod = JOB["spec"], JOB["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert (JOB["apiVersion"], JOB["kind"], spec["completionMode"]) == ("batch/v1", "Job", "Indexed")
    assert f"JOB_COMPLETION_INDEX + 1))/{spec['completions']}" in container["args"][0]
    assert pod["restartPolicy"] == "Never"  # as backoffLimitPerIndex needs
    (mount,), (volume,) = container["volumeMounts"], pod["volumes"]
    assert (mount["name"], mount["mountPath"]) == (volume["name"], container["workingDir"])


def test_the_array_counts_its_shards_from_one():
    options = dict(line[len("#SBATCH --") :].partition("=")[::2] for line in ARRAY.splitlines() if "#SBATCH --" in line)
    (shards,) = re.findall(r"^SHARDS=(\d+)", ARRAY, re.MULTILINE)
    assert options["array"] == f"1-{shards}"
    assert "requeue" in options


def test_the_arithmetic_of_the_page():
    figures = json.loads((ROOT / "benchmarks" / "results" / "judging.json").read_text(encoding="utf-8"))
    rate = next(row["value"] for row in figures["rows"] if row["system"] == "engine")
    assert f"| {rate:.1f} | measured" in PAGE
    hours = 1e7 / rate / 3600
    assert f"| {hours:.0f} | {hours / 100:.1f} h | ${hours * 0.1:.0f} at $0.10" in PAGE
    slow, fast = (1e7 / rate / 3600 for rate in (60, 120))
    assert f"| {fast:.0f} to {slow:.0f} | {fast * 0.6:.0f} to {slow * 0.6:.0f} min |" in PAGE
    assert f"${fast * 2.5:.0f} to ${slow * 2.5:.0f} at $2.50" in PAGE
    assert f"{-(-10_000_000 // PART_ROWS):,} parts" in PAGE and f"parts of {PART_ROWS} rows" in PAGE
