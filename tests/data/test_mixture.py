"""Several datasets as one training set: weights, leaks between them, the manifest, and what is refused."""

from __future__ import annotations

import json

import pytest

from searchlora.adapters.ancestry import training_queries
from searchlora.adapters.store import Store
from searchlora.data.building import build
from searchlora.data.dataset import load_dataset
from searchlora.data.mixture import Mixture, parse_weighted
from searchlora.errors import TrainingError, UsageError
from searchlora.eval.judgments.lineage import query_hash
from searchlora.experiments.options import TrainingOptions
from searchlora.experiments.train import train
from searchlora.task import load_task
from searchlora.training.metrics import read_metrics

SHORT = (
    "optim.max_steps=2",
    "optim.batch_size=4",
    "lora.r=2",
    "validation.generate_rows=0",
    "checkpoints.every_steps=1",
)


def rows(prefix, queries, split="train"):
    return [
        {
            "id": f"{prefix}{query} d{grade}",
            "group": f"{prefix} {query}",
            "query": f"where is {query}",
            "passage": f"{query} is in place {grade}",
            "grade": grade,
            "split": split,
        }
        for query in queries
        for grade in (0, 3)
    ]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("mixture")
    content = {
        "own": [*rows("o", "ab"), *rows("o", "c", "validation"), *rows("o", "d", "test")],
        "other": rows("p", "cdef"),  # the inputs of c and d are held out in the first dataset
        "held": rows("o", "cd"),
        "two": rows("q", "gh"),
    }
    for name, records in content.items():
        source = root / f"{name}.jsonl"
        source.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
        options = {"grades": "2"} if name == "two" else {}
        build("judgment", source, format="native", out=root / name, options=options, split_ratios=(1.0, 0.0, 0.0))
    return root


def mixture(folders, *more):
    first = load_dataset(folders / "own")
    return Mixture(load_task("judgment"), first, [(load_dataset(folders / name), weight) for name, weight in more])


def test_rows_of_a_further_dataset_that_the_first_holds_out_are_left_out(folders):
    mixed = mixture(folders, ("other", 0.5))
    records, weights = mixed.rows()
    assert [record["id"] for record in records] == [
        "oa d0",
        "oa d3",
        "ob d0",
        "ob d3",
        "pe d0",
        "pe d3",
        "pf d0",
        "pf d3",
    ]
    assert weights == [1.0] * 4 + [0.5] * 4
    (about,) = mixed.summary()
    assert (about["rows"], about["rows left out"], about["weight"]) == (4, 4, 0.5)
    assert about["ids left out"] == ["pc d0", "pc d3", "pd d0", "pd d3"]


def test_a_group_that_the_first_dataset_holds_out_is_left_out(folders):
    with pytest.raises(TrainingError, match="all training rows are in the validation or test split"):
        mixture(folders, ("held", 1.0)).rows()


@pytest.mark.parametrize("weight", [0.0, -1.0, float("nan"), float("inf")])
def test_a_weight_is_a_positive_number(folders, weight):
    with pytest.raises(UsageError, match="is not a positive number"):
        mixture(folders, ("other", weight))


def test_a_dataset_with_another_scale_is_refused(folders):
    with pytest.raises(UsageError, match="has other settings of the task"):
        mixture(folders, ("two", 1.0))


@pytest.mark.parametrize(
    ("values", "says"),
    [
        (["a=2"], "the first dataset has the weight 1"),
        (["a", "b", "b=2"], "is given twice"),
        ([], "there is no dataset"),
    ],
)
def test_invalid_options_are_named(values, says):
    with pytest.raises(UsageError, match=says):
        parse_weighted(values)


def test_a_folder_may_have_an_equals_sign_in_its_name():
    assert parse_weighted(["a=b", "x=y=2"]) == ("a=b", {"x=y": 2.0})


@pytest.mark.slow
def test_the_manifest_names_the_datasets_and_their_weights(folders, tiny_base, tmp_path, cli):
    called = cli(
        *("train", "judgment", "--data", folders / "own", "--data", f"{folders / 'other'}=0.5", "--name", "judge"),
        *("--base", tiny_base.path, "--store", tmp_path / "store"),
        *(argument for setting in SHORT for argument in ("--set", setting)),
    )
    assert called.code == 0, called.err
    assert (
        f"Left out 4 training rows of other.jsonl, which are in the validation or test split of {folders / 'own'}"
        in (called.out)
    )
    store = Store(tmp_path / "store")
    manifest = store.get("judge").manifest
    (more,) = manifest.dataset.card["more data"]
    assert (more["fingerprint"], more["weight"]) == (load_dataset(folders / "other").fingerprint, 0.5)
    assert manifest.training["rows"] == 8
    assert manifest.dataset.fingerprint == load_dataset(folders / "own").fingerprint
    seen = training_queries(store, "judge")
    assert {query_hash(f"where is {query}") for query in "abcef"} == set(seen)
    assert query_hash("where is d") not in seen


@pytest.mark.slow
def test_another_weight_is_another_training(folders, tiny_base, tmp_path):
    store, logged = Store(tmp_path / "store"), []
    overrides = (*SHORT, f"base={tiny_base.path}")
    for weight in (0.5, 0.5, 0.25):
        more = {str(folders / "other"): weight}
        train(
            "judgment",
            folders / "own",
            "j",
            TrainingOptions(overrides=overrides, more_data=more, reuse=True),
            store=store,
            log=logged.append,
        )
    assert store.versions("j") == (1, 2)
    assert logged[1] == "Reusing j@1, trained on this dataset with this recipe"
    first, second = (
        [line["loss"] for line in read_metrics(store.get(f"j@{number}").path / "metrics.jsonl") if "loss" in line]
        for number in (1, 2)
    )
    assert first[0] > second[0]  # the same rows, the others with a smaller weight


def test_an_encoder_takes_one_dataset(folders, tmp_path):
    with pytest.raises(UsageError, match="several datasets are for tasks with a prompt only"):
        train(
            "embedding",
            folders / "own",
            "e",
            TrainingOptions(more_data={str(folders / "other"): 1.0}),
            store=tmp_path / "store",
        )
