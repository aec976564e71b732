"""The core install without torch, made by `make test` (SEARCHLORA_CORE_PYTHON names its Python), and the wheel."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

from benchmarks.servers import child_server
from searchlora.eval.trec import read_run
from searchlora.experiments.options import TrainingOptions
from searchlora.experiments.train import train

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
FIXTURE = ROOT / "tests" / "fixtures" / "tiny"
FAST = ("optim.max_steps=4", "optim.batch_size=4", "precision=fp32", "method=lora", "validation.rows=4")
HEAVY = ("torch", "peft", "trl", "bitsandbytes", "datasets", "sentence_transformers", "faiss", "fastapi", "matplotlib")


@pytest.fixture(scope="module")
def core_python():
    python = os.environ.get("SEARCHLORA_CORE_PYTHON")
    if not python or not Path(python).is_file():
        pytest.skip("SEARCHLORA_CORE_PYTHON names no Python; `make test` makes one")
    missing = f"import importlib.util as u; print([m for m in {HEAVY} if u.find_spec(m)])"
    found = subprocess.run([python, "-c", missing], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]", "the core environment has more than the core"
    return python


@pytest.fixture
def core(core_python, tmp_path):
    """`core("convert", ...)` runs a command with the core's Python and returns what it printed."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "200"}

    def call(*arguments, code=0):
        script = "import sys; from searchlora.cli import main; sys.argv[0] = 'searchlora'; main()"
        done = subprocess.run(
            [core_python, "-c", script, *map(str, arguments)],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == code, done.stdout + done.stderr
        assert "Traceback" not in done.stderr
        assert "PyTorch was not found" not in done.stderr
        return done.stdout + done.stderr

    return call


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with a tiny base, datasets, and a store with an adapter of two tasks."""
    folder = tmp_path_factory.mktemp("trained")
    shutil.copytree(FIXTURE, folder, dirs_exist_ok=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)  # the manifests name their base relative to it
        for task in ("intent", "rewriting"):
            train(task, f"datasets/{task}", f"tiny-{task}", TrainingOptions(FAST, base="base"), store="store")
    return folder


@pytest.fixture
def folder(trained, tmp_path):
    """A copy of it for one test."""
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
    return tmp_path


def write_retrieval(folder: Path) -> None:
    """Topics, qrels and two runs."""
    topics = "id\tquery\n" + "".join(f"q{t}\tquery {t}\n" for t in range(12))
    qrels = "".join(f"q{t} 0 d{d} {(t + d) % 4}\n" for t in range(12) for d in range(6))
    first = "".join(f"q{t} Q0 d{d} {d + 1} {9 - d} a\n" for t in range(12) for d in range(6))
    second = "".join(f"q{t} Q0 d{(d + t) % 6} {d + 1} {9 - d} b\n" for t in range(12) for d in range(6))
    for name, text in (("topics.tsv", topics), ("qrels.txt", qrels), ("a.trec", first), ("b.trec", second)):
        (folder / name).write_text(text, encoding="utf-8")


def test_convert_and_experiment_on_run_files(core, tmp_path):
    write_retrieval(tmp_path)
    core("convert", "qrels.txt", "qrels.jsonl")
    assert len((tmp_path / "qrels.jsonl").read_text(encoding="utf-8").splitlines()) == 72
    (tmp_path / "experiment.yaml").write_text(
        "name: two\ntopics: topics.tsv\nqrels: qrels.txt\nsystems: {a: {run: a.trec}, b: {run: b.trec}}\nbaseline: a\n",
        encoding="utf-8",
    )
    assert "nDCG@10" in core("experiment", "experiment.yaml", "--out", "results")
    results = json.loads((tmp_path / "results" / "experiment.json").read_text(encoding="utf-8"))
    assert {row["system"] for row in results["rows"]} == {"a", "b"}
    assert "pip install 'searchlora[report]'" in (tmp_path / "results" / "report.html").read_text(encoding="utf-8")


def test_judge_card(core, tmp_path):
    write_retrieval(tmp_path)
    printed = core("judge-card", "--human", "qrels.txt", "--judge", "same=qrels.txt", "--out", "card")
    assert "1.000" in printed
    assert json.loads((tmp_path / "card" / "judge_card.json").read_text(encoding="utf-8"))
    assert (tmp_path / "card" / "judge_card.md").is_file()
    assert "pip install 'searchlora[report]'" in (tmp_path / "card" / "judge_card.html").read_text(encoding="utf-8")


def test_store_evaluate_and_promote_from_kept_outputs(core, folder, cli, monkeypatch):
    assert "tiny-intent@1" in core("adapters", "list", "--store", "store")
    evaluation = (
        *("evaluate", "tiny-intent", "--data", "datasets/intent"),
        *("--store", "store", "--out", "evaluations/intent"),
    )
    monkeypatch.chdir(folder)  # the manifests name their base relative to it
    generated = cli(*evaluation)
    assert generated.code == 0, generated.err
    evaluated = core(*evaluation)
    assert "Outputs taken from" in evaluated
    (folder / "policy.yaml").write_text("measure: accuracy\nmax_invalid_rate: 0.5\n", encoding="utf-8")
    promote = (
        *("promote", "tiny-intent@1", "--to", "production", "--policy", "policy.yaml", "--data", "datasets/intent"),
        *("--store", "store", "--out", "evaluations/intent"),
    )
    assert "Refused" in core(*promote, code=1)  # six rows cannot show that it beats its base
    core(*promote, "--force", "a test")
    assert "tiny-intent" in core("adapters", "show", "tiny-intent@production", "--store", "store")


def test_run_a_pipeline_through_a_server(core, folder, monkeypatch):
    """The server has torch; the pipeline that asks it does not."""
    (folder / "queries.tsv").write_text("id\tquery\n1\ttent 0\n2\tboot 1\n", encoding="utf-8")
    documents = [{"id": f"d{n}", "title": "", "text": f"TENT {n} boot stove"} for n in range(5)]
    (folder / "corpus.jsonl").write_text("".join(json.dumps(d) + "\n" for d in documents), encoding="utf-8")
    monkeypatch.chdir(folder)  # the manifests name their base relative to it
    script = Path(sys.executable).with_name("searchlora")
    serve = [str(script), "serve", "--base", "base", "--store", "store", "--precision", "fp32", "--port"]
    environment = {"PYTHONPATH": str(ROOT)}
    with child_server(
        "serve", lambda port: [*serve, str(port)], folder / "server.log", ready="/readyz", environment=environment
    ) as url:
        core(
            *("run", "rewrite_bm25", "--queries", "queries.tsv", "--corpus", "corpus.jsonl", "--out", "run.trec"),
            *("--set", "adapter=tiny-rewriting@1", "--store", "store", "--server", url),
        )
    assert set(read_run(folder / "run.trec")) <= {"1", "2"}


def test_run_a_pipeline_in_shards(core, tmp_path):
    (tmp_path / "queries.tsv").write_text("id\tquery\n1\ttent\n2\tboot\n", encoding="utf-8")
    (tmp_path / "corpus.jsonl").write_text('{"id": "d1", "text": "a tent"}\n{"id": "d2", "text": "a boot"}\n')
    arguments = ("run", "bm25", "--queries", "queries.tsv", "--corpus", "corpus.jsonl")
    core(*arguments, "--out", "run.trec", "--shards", "2")
    assert set(read_run(tmp_path / "run.trec")) == {"1", "2"}


def test_verbs_that_need_more_name_the_extra(core, folder):
    assert "searchlora[local]" in core("adapters", "verify", "tiny-intent", "--store", "store", code=1)
    train = ("train", "intent", "--data", "datasets/intent", "--name", "new", "--base", "base", "--store", "store")
    assert "searchlora[" in core(*train, code=1)
    assert not (folder / "store" / "new").exists()
    assert "searchlora[serve]" in core("serve", "--base", "base", "--store", "store", code=1)


# The wheel holds every file of the package, and works where there is no checkout


#: Three folders stand at the top level; in the wheel they are packages of searchlora.
LINKED = ("tasks", "pipelines", "eval")

#: Without the checkout.
ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}


def packaged() -> set[str]:
    """The tracked files of the package, by their path in the wheel."""
    listed = subprocess.run(
        ["git", "ls-files", "searchlora", *LINKED], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split()
    files = {file for file in listed if not (ROOT / file).is_symlink()}
    return {file if file.startswith("searchlora/") else f"searchlora/{file}" for file in files}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy, offline: a folder `build` of the checkout may hold modules that are gone."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    ignored = shutil.ignore_patterns("__pycache__")
    for name in ("searchlora", *LINKED):
        shutil.copytree(ROOT / name, source / name, symlinks=True, ignore=ignored)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    built = pip("wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder), str(source))
    assert built.returncode == 0, built.stderr
    (file,) = folder.glob("*.whl")
    return file


def pip(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pip", *arguments, "--no-index", "--quiet"]
    return subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def program(wheel: Path) -> Path:
    """`searchlora` in an environment with the wheel and the libraries of this one, but not its checkout."""
    environment = wheel.parent / "environment"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", environment], check=True)
    installed = pip("--python", str(environment / "bin" / "python"), "install", "--no-deps", str(wheel))
    assert installed.returncode == 0, installed.stderr
    # A plain path: `.pth` files of that folder, such as those of editable installs, are not read.
    own = environment / "lib" / f"python{sys.version_info[0]}.{sys.version_info[1]}" / "site-packages"
    (own / "libraries.pth").write_text(sysconfig.get_paths()["purelib"] + "\n", encoding="utf-8")
    return environment / "bin" / "searchlora"


def test_every_file_of_the_package_is_in_the_wheel(wheel: Path) -> None:
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert names == packaged()


def test_commands_work_without_the_checkout(program: Path, tmp_path: Path) -> None:
    (tmp_path / "pairs.csv").write_text("query,rewrite\nred telly,red television\nsofa,couch\n", encoding="utf-8")
    (tmp_path / "products.jsonl").write_text('{"id": "p1", "title": "Green tent", "text": "New."}\n', encoding="utf-8")
    for words, printed in (
        (["demo", "--help"], "--all"),
        (["search", "bm25", "tent", "--corpus", "products.jsonl"], "Green tent"),
        (["data", "build", "rewriting", "pairs.csv", "--format", "pairs", "--out", "data"], "Wrote data"),
        (["tasks", "new", "greeting", "--kind", "text", "--out", "mine"], "greeting"),
    ):
        ended = subprocess.run(
            [program, *words], cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True, check=False
        )
        assert ended.returncode == 0, (words, ended.stderr)
        assert printed in ended.stdout, words
    where = "import searchlora; print(searchlora.__file__)"
    python = program.with_name("python")
    found = subprocess.run([python, "-c", where], cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True)
    assert found.stdout.startswith(str(program.parents[1]))
