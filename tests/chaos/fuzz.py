"""Coverage-guided fuzzing of the readers: any bytes give rows, rejected rows or a `SearchloraError`, nothing else.

python -m tests.chaos.fuzz rows.jsonl --seconds 60 --seed 1      one reader, in this process, as atheris runs it
python -m tests.chaos.fuzz all --seconds 240 --seed 1            each reader in a process of its own
"""

from __future__ import annotations

import gzip
import json
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict
from pathlib import Path

from tests.chaos.findings import Finding

#: A few bytes of each format, from which the fuzzer starts.
SEEDS: dict[str, bytes] = {
    "rows.jsonl": b'{"id": "1", "query": "tent", "grade": 2}\n{"id": "2", "query": "boot"}\n',
    "rows.json": b'[{"id": "1", "query": "tent"}, {"id": "2", "n": [1, 2.5, null, true]}]',
    "rows.csv": b'id,query\n1,"a ""tent"", red"\n2,boot\n',
    "rows.tsv": b"id\tquery\n1\ttent\n",
    "rows.jsonl.gz": gzip.compress(b'{"id": "1", "query": "tent"}\n'),
    "qrels.txt": b"q1 0 d1 2\nq1 0 d2 0\n",
    "qrels.tsv": b"query-id\tcorpus-id\tscore\nq1\td1\t1\n",
    "qrels.json": b'{"q1": {"d1": 2, "d2": 0}}',
    "run.trec": b"q1 Q0 d1 1 2.5 tag\nq1 Q0 d2 2 1.5 tag\n",
    "topics.tsv": b"q1\ttent for two\nq2\tboots\n",
    "topics.xml": b"<top>\n<num> Number: 1\n<title> tents\n</top>\n",
    "querylog.csv": b"session,time,query,clicks\ns1,0,tnet,0\ns1,5,tent,2\n",
    "policy.yaml": b"measure: nDCG@10\nbeat: {base: {margin: 0.0}}\n",
    "recipe.yaml": b"lora: {r: 8}\noptim: {learning_rate: 1.0e-3}\n",
    "pipeline.yaml": b"name: p\nstages:\n  - bm25: {k: 10}\n",
    "manifest.json": b'{"schema_version": 5, "name": "a", "version": 1, "task": "rewriting"}',
}


def reader(name: str) -> Callable[[Path], object]:
    """The function that reads a file of this name."""
    if name.startswith("rows"):
        from searchlora.files import read_rows

        return lambda path: _exhaust(read_rows(path))
    if name.startswith("qrels"):
        from searchlora.eval.formats import read_qrels

        return read_qrels
    if name == "run.trec":
        from searchlora.eval.formats import read_run

        return read_run
    if name.startswith("topics"):
        from searchlora.eval.formats import read_topics

        return read_topics
    if name == "querylog.csv":
        from searchlora.task import load_task

        log = load_task("rewriting").formats["querylog"]
        return lambda path: _exhaust(log.read(path, {}))
    if name == "policy.yaml":
        from searchlora.eval.policy import read_policy

        return read_policy
    if name == "recipe.yaml":
        from searchlora.recipe import load_recipe

        return lambda path: load_recipe({}, path, ())
    if name == "pipeline.yaml":
        from searchlora.pipelines.config import read_pipeline

        return lambda path: read_pipeline(str(path))
    from searchlora.adapters.manifest import parse_manifest

    return lambda path: parse_manifest(path.read_text(encoding="utf-8", errors="surrogateescape"), str(path))


def _exhaust(rows: Iterable[object]) -> int:
    return sum(1 for _ in rows)


def start(seconds: float, seed: int) -> subprocess.Popen[str]:
    """Begin to fuzz in a process of its own, beside checks that use one core."""
    command = [sys.executable, "-m", "tests.chaos.fuzz", "all", "--seconds", str(seconds), "--seed", str(seed)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def result(process: subprocess.Popen[str]) -> Finding:
    """Wait for the process of `start`; its finding."""
    out, error = process.communicate()
    if process.returncode:
        return Finding("fuzzing: readers", problems=[f"the fuzzer ended with {process.returncode}: {error[-500:]}"])
    return Finding(**json.loads(out))


def fuzz_all(seconds: float, seed: int) -> Finding:
    """Fuzz each reader in a process of its own for its share of the seconds."""
    started = time.monotonic()
    share = max(2, int(seconds / len(SEEDS)))
    finding = Finding("fuzzing: readers", unit="files read")
    for name in SEEDS:
        done = subprocess.run(
            [sys.executable, "-m", "tests.chaos.fuzz", name, "--seconds", str(share), "--seed", str(seed)],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=share + 120,
        )
        runs = re.search(r"Done (\d+) runs", done.stderr) or re.search(r"^#(\d+)", done.stderr, re.M)
        finding.attempts += int(runs[1]) if runs else 0
        if not done.returncode and not runs:
            finding.problems.append(f"{name}: nothing was read")
        if done.returncode:
            printed = done.stdout + done.stderr
            raised = re.search(r"Uncaught Python exception: ===\s*(.+?)\n", printed)
            finding.problems.append(f"{name}: {raised[1] if raised else printed.strip()[-500:]}")
    finding.seen = f"{len(SEEDS)} readers; rows, rejected rows or a worded error"
    finding.seconds = time.monotonic() - started
    return finding


def main() -> None:
    """Fuzz one reader, and end with 77 where an exception is not a `SearchloraError`; or all, and print the finding."""
    name = sys.argv[1]
    seconds, seed = (sys.argv[sys.argv.index(option) + 1] for option in ("--seconds", "--seed"))
    if name == "all":
        print(json.dumps(asdict(fuzz_all(float(seconds), int(seed)))))
        return
    import atheris

    with atheris.instrument_imports(include=["searchlora"]):
        read = reader(name)
    from searchlora.errors import SearchloraError

    with tempfile.TemporaryDirectory() as temporary:
        corpus = Path(temporary, "corpus")
        corpus.mkdir()
        (corpus / "seed").write_bytes(SEEDS[name])
        path = Path(temporary, name)

        def one(data: bytes) -> None:
            path.write_bytes(data)
            try:
                read(path)
            except SearchloraError:
                return

        options = [f"-max_total_time={seconds}", f"-seed={seed}", "-max_len=4096", "-rss_limit_mb=4096", "-timeout=20"]
        artifacts = f"-artifact_prefix={tempfile.gettempdir()}/chaos-{name}-"
        atheris.Setup([sys.argv[0], *options, artifacts, str(corpus)], one)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
