"""The builder keeps who or what graded: from cards and declarations, and from nothing else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from searchlora.data.building import build
from searchlora.data.dataset import SOURCES_FILE, load_dataset
from searchlora.data.export import export_split
from searchlora.errors import DataError, UsageError
from searchlora.eval.judgments.card import JudgmentsCard, card_path, read_card, source_of, write_card, write_judgments
from searchlora.eval.trec import Qrels, write_qrels
from searchlora.experiments.judge.judgments import load_judgments
from searchlora.shop import make_shop
from searchlora.task import load_task

LLM = JudgmentsCard("llm", "2026-07-01", judge="j@1", judge_lineage=("j@1",))
HUMAN = JudgmentsCard("human", "2026-07-01")
TOPICS = [f"q{n}" for n in range(20)]
QRELS: Qrels = {topic: {f"d{n % 9}": n % 4, f"d{n % 9 + 1}": 0} for n, topic in enumerate(TOPICS)}


def collection(folder: Path, card: JudgmentsCard | None = None) -> Path:
    """A TREC folder whose qrels have a card, or none."""
    folder.mkdir()
    (folder / "topics.tsv").write_text("".join(f"{topic}\tthings like {topic}\n" for topic in TOPICS))
    documents = [{"id": f"d{n}", "text": f"thing number {n}"} for n in range(10)]
    (folder / "corpus.jsonl").write_text("".join(json.dumps(each) + "\n" for each in documents))
    if card is None:
        write_qrels(folder / "qrels.txt", QRELS)
    else:
        write_judgments(folder / "qrels.txt", QRELS, card)
    return folder


def pairs(path: Path) -> Path:
    rows = [f"{topic},things like {topic},things as {topic}" for topic in TOPICS]
    path.write_text("\n".join(["id,query,rewrite", *rows]) + "\n")
    return path


def table(path: Path, sources: list[str] | None = None) -> Path:
    """Judgments with their texts, and with a column `by` if there are sources."""
    header = "query,passage,grade" + (",by" if sources else "")
    rows = [f"query {n},text {n},{n % 4}" + (f",{sources[n % len(sources)]}" if sources else "") for n in range(20)]
    path.write_text("\n".join([header, *rows]) + "\n")
    return path


def source_of_split(folder: Path, task: str, split: str = "train", qrels: Path | None = None) -> str:
    dataset = load_dataset(folder)
    dataset.verify()
    return load_judgments(dataset, load_task(task), split, dataset.records(split), qrels).source


@pytest.mark.parametrize(
    ("card", "declared", "source"),
    [(LLM, None, "llm"), (HUMAN, None, "human"), (None, None, "unknown"), (None, "human", "human"),
     (LLM, "llm", "llm"), (JudgmentsCard("clicks", ""), None, "clicks"), (JudgmentsCard("mixed", ""), None, "mixed")],
)  # fmt: skip
@pytest.mark.parametrize("task", ["judgment", "embedding"])
def test_the_source_of_qrels_is_kept_with_records_and_judgments(tmp_path, task, card, declared, source):
    folder = collection(tmp_path / "trec", card)
    card_of_build = build(task, folder, format="trec", out=tmp_path / "data", judgments_source=declared)
    assert source_of_split(tmp_path / "data", task) == source
    (counts,) = {
        tuple(each) for name, each in card_of_build.report["sources"].items() if name != "records" or task == "judgment"
    }
    assert counts == (source,)


@pytest.mark.parametrize(("task", "format"), [("judgment", "trec"), ("embedding", "trec")])
def test_a_declaration_that_a_card_contradicts_is_an_error(tmp_path, task, format):
    with pytest.raises(UsageError, match="its card says that the judgments are 'llm', not 'human'"):
        build(task, collection(tmp_path / "trec", LLM), format=format, out=tmp_path / "data", judgments_source="human")
    assert not (tmp_path / "data").exists()


def test_a_word_that_is_no_source_is_an_error(tmp_path):
    with pytest.raises(UsageError, match="'people' is no source of judgments"):
        build("judgment", table(tmp_path / "t.csv"), format="judgments", out=tmp_path / "d", judgments_source="people")


@pytest.mark.parametrize("task", ["judgment", "embedding"])
def test_a_card_of_another_file_stops_the_build(tmp_path, task):
    folder = collection(tmp_path / "trec", HUMAN)
    write_qrels(folder / "qrels.txt", {"q1": {"d1": 1}})
    with pytest.raises(DataError, match="was changed since its card was written"):
        build(task, folder, format="trec", out=tmp_path / "data")


def test_a_renamed_card_is_no_card(tmp_path):
    folder = collection(tmp_path / "trec", HUMAN)
    card_path(folder / "qrels.txt").rename(folder / "card.json")
    build("judgment", folder, format="trec", out=tmp_path / "data")
    assert source_of_split(tmp_path / "data", "judgment") == "unknown"


def test_the_judges_of_records_are_kept_so_that_no_judge_grades_itself(tmp_path):
    build("judgment", collection(tmp_path / "trec", LLM), format="trec", out=tmp_path / "data")
    dataset = load_dataset(tmp_path / "data")
    judgments = load_judgments(dataset, load_task("judgment"), "test", dataset.records("test"))
    assert judgments.card is not None and judgments.card.judge_lineage == ("j@1",)


@pytest.mark.parametrize(
    ("card", "declared", "source"),
    [(LLM, None, "llm"), (HUMAN, None, "human"), (None, None, "unknown"), (None, "human", "human")],
)
def test_supplied_qrels_bring_their_source(tmp_path, card, declared, source):
    folder = collection(tmp_path / "trec", card)
    build("rewriting", pairs(tmp_path / "pairs.csv"), format="pairs", out=tmp_path / "data", judgments_source=declared,
          corpus=folder / "corpus.jsonl", qrels=folder / "qrels.txt")  # fmt: skip
    assert source_of_split(tmp_path / "data", "rewriting") == source
    with pytest.raises(UsageError, match="not 'clicks'") if card is not None else pytest.raises(DataError):
        build("rewriting", tmp_path / "pairs.csv", format="pairs", out=tmp_path / "data", judgments_source="clicks",
              corpus=folder / "corpus.jsonl", qrels=folder / "qrels.txt")  # fmt: skip


def test_a_card_of_the_rows_says_nothing_about_supplied_qrels(tmp_path):
    folder = collection(tmp_path / "trec")
    write_card(pairs(tmp_path / "pairs.csv"), HUMAN)
    build("rewriting", tmp_path / "pairs.csv", format="pairs", out=tmp_path / "data",
          corpus=folder / "corpus.jsonl", qrels=folder / "qrels.txt")  # fmt: skip
    assert source_of_split(tmp_path / "data", "rewriting") == "unknown"


def test_files_of_several_splits_keep_their_own_sources(tmp_path):
    for name, card in (("train", LLM), ("test", HUMAN), ("dev", None)):
        (tmp_path / "tables").mkdir(exist_ok=True)
        path = tmp_path / "tables" / f"{name}.csv"
        path.write_text(f"query,passage,grade\n{name} query,{name} text,1\nother {name},some {name},2\n")
        if card is not None:
            write_card(path, card)
    build("judgment", tmp_path / "tables", format="judgments", out=tmp_path / "data")
    found = {split: source_of_split(tmp_path / "data", "judgment", split) for split in ("train", "validation", "test")}
    assert found == {"train": "llm", "validation": "unknown", "test": "human"}


def test_a_column_names_the_source_of_each_row(tmp_path):
    rows = table(tmp_path / "t.csv", ["human", "clicks", ""])
    build("judgment", rows, format="judgments", out=tmp_path / "data", fields={"source": ("by",)})
    counts = load_dataset(tmp_path / "data").card.report["sources"]["records"]
    assert counts == {"clicks": 7, "human": 7, "unknown": 6}
    build("judgment", rows, format="judgments", out=tmp_path / "unnamed")
    assert load_dataset(tmp_path / "unnamed").card.report["sources"]["records"] == {"unknown": 20}


def test_a_column_with_another_word_is_rejected_and_never_a_source(tmp_path):
    rows = table(tmp_path / "t.csv", ["human", "gpt"])
    build("judgment", rows, format="judgments", out=tmp_path / "data", fields={"source": ("by",)}, allow_rejects=True)
    (reason,) = {reason.split(";")[0] for reason in load_dataset(tmp_path / "data").card.rejected}
    assert reason.startswith("field 'source': 'gpt' is not one of human, llm")
    write_card(rows, LLM)
    with pytest.raises(UsageError, match="has a card that says who graded"):
        build("judgment", rows, format="judgments", out=tmp_path / "other", fields={"source": ("by",)})


def test_unjudged_documents_are_of_no_rater(tmp_path):
    folder = collection(tmp_path / "trec", HUMAN)
    build("judgment", folder, format="trec", out=tmp_path / "data", options={"unjudged": "1"})
    assert source_of_split(tmp_path / "data", "judgment") == "human and synthetic"


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder: Path = tmp_path_factory.mktemp("shop") / "shop"
    make_shop(folder, products=600, queries=100)
    return folder


@pytest.mark.parametrize("task", ["rewriting", "judgment", "embedding", "intent", "rag_answer"])
def test_the_synthetic_shop_is_synthetic_and_nothing_else(shop, tmp_path, task):
    build(task, shop, format="shop", out=tmp_path / "data")
    assert source_of_split(tmp_path / "data", task) == "synthetic"
    with pytest.raises(UsageError, match="says that the judgments are 'synthetic', not 'human'"):
        build(task, shop, format="shop", out=tmp_path / "other", judgments_source="human")


def test_a_dataset_of_an_earlier_release_is_of_unknown_source(tmp_path):
    build("judgment", table(tmp_path / "t.csv"), format="judgments", out=tmp_path / "data")
    assert not (tmp_path / "data" / SOURCES_FILE).exists()
    assert source_of_split(tmp_path / "data", "judgment") == "unknown"


def edited(folder: Path, change: Any) -> None:
    path = folder / "dataset.json"
    values = json.loads(path.read_text())
    change(values)
    path.write_text(json.dumps(values))


def test_an_edited_dataset_does_not_become_human(tmp_path):
    folder = tmp_path / "data"
    build("judgment", table(tmp_path / "t.csv"), format="judgments", out=folder, judgments_source="llm")
    before = load_dataset(folder).fingerprint
    edited(folder, lambda values: values["report"]["sources"].update(records={"human": 20}))
    assert source_of_split(folder, "judgment") == "llm"  # these numbers are for display
    (folder / SOURCES_FILE).write_text('{"records": {"train": {"human": 20}}}')
    with pytest.raises(DataError, match="was changed after it was built"):
        load_dataset(folder).verify()
    (folder / SOURCES_FILE).unlink()
    with pytest.raises(DataError, match="the file is missing"):
        load_dataset(folder).verify()
    edited(folder, lambda values: values["files"].pop(SOURCES_FILE))
    assert source_of_split(folder, "judgment") == "unknown"
    assert load_dataset(folder).fingerprint != before


def test_a_card_that_the_dataset_does_not_list_is_an_error(tmp_path):
    folder = collection(tmp_path / "trec")
    build("embedding", folder, format="trec", out=tmp_path / "data")
    write_card(tmp_path / "data" / "qrels.txt", HUMAN)
    with pytest.raises(DataError, match="is not on the card"):
        source_of_split(tmp_path / "data", "embedding")
    with pytest.raises(DataError, match="is not a file of the dataset"):  # an export does not hash the whole dataset
        export_split(load_dataset(tmp_path / "data"), load_task("embedding"), "test", tmp_path / "out")


@pytest.mark.parametrize("declared", [None, "human", "llm"])
def test_exported_judgments_have_their_source(tmp_path, declared):
    rows = "query,document,passage,grade\n" + "".join(f"query {n},d{n},text {n},{n % 4}\n" for n in range(20))
    (tmp_path / "t.csv").write_text(rows)
    build("judgment", tmp_path / "t.csv", format="judgments", out=tmp_path / "data", judgments_source=declared)
    export_split(load_dataset(tmp_path / "data"), load_task("judgment"), "train", tmp_path / "out")
    qrels = tmp_path / "out" / "qrels.txt"
    assert source_of(qrels) == (declared or "unknown")
    assert (read_card(qrels) is None) == (declared is None)


@pytest.mark.parametrize("task", ["judgment", "embedding"])
def test_a_split_that_only_people_graded_is_human(tmp_path, task):
    rows = [f"query {n},d{n},text {n},{n % 4},{'test' if n > 14 else 'train'},{'human' if n > 9 else 'llm'}"
            for n in range(20)]  # fmt: skip
    (tmp_path / "t.csv").write_text("\n".join(["query,document,passage,grade,split,by", *rows]) + "\n")
    fields = {"source": ("by",), "split": ("split",)}
    build(task, tmp_path / "t.csv", format="judgments", out=tmp_path / "data", fields=fields)
    assert (source_of_split(tmp_path / "data", task), source_of_split(tmp_path / "data", task, "test")) == (
        "mixed",
        "human",
    )
    for split, word in (("train", "mixed"), ("test", "human")):
        export_split(load_dataset(tmp_path / "data"), load_task(task), split, tmp_path / split)
        assert source_of(tmp_path / split / "qrels.txt") == word
