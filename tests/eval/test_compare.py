"""A comparison is over common rows, says what it leaves out, and comes out in the agreed shapes."""

from __future__ import annotations

import json
import random
from dataclasses import replace

import pytest

from searchlora.errors import UsageError
from searchlora.eval.compare import compare
from searchlora.eval.evaluation import Evaluation
from searchlora.eval.significance import bootstrap_interval, correct, paired_difference
from searchlora.eval.tables import Header, to_json, to_markdown

IDS = [f"d{dialogue}_{turn}" for dialogue in range(15) for turn in range(2, 5)]
CLUSTERS = {row: row.split("_")[0] for row in IDS}
HEADER = Header("demo", "make demo", "2025-01-02", "2 cores", {"torch": "2.8"})


def evaluation(mean: float, seed: int, measures: tuple[str, ...] = ("nDCG@10", "MRR@10")) -> Evaluation:
    rng = random.Random(seed)
    return Evaluation(
        headline="MRR@10",
        values={measure: {row: min(1, max(0, rng.gauss(mean, 0.2))) for row in IDS} for measure in measures},
        clusters=CLUSTERS,
        slices={"turn": {row: row.split("_")[1] for row in IDS}},
        notes=("All rows count.",),
    )


@pytest.fixture
def systems() -> dict[str, Evaluation]:
    return {"raw": evaluation(0.2, 1), "base": evaluation(0.3, 2), "adapter": evaluation(0.6, 3)}


def test_figures_are_those_of_the_statistics(systems):
    found = compare(systems, candidate="adapter", baseline="raw", resamples=500)
    assert found.measures == ("MRR@10", "nDCG@10")
    values = {name: [each.values["MRR@10"][row] for row in IDS] for name, each in systems.items()}
    clusters = [CLUSTERS[row] for row in IDS]
    row = found.row("adapter", "MRR@10")
    assert row.value == pytest.approx(systems["adapter"].mean("MRR@10"))
    assert (row.low, row.high) == pytest.approx(bootstrap_interval(values["adapter"], clusters, resamples=500))
    assert row.n == 45
    pair, expected = (
        found.pair("adapter", "base", "MRR@10"),
        paired_difference(values["adapter"], values["base"], clusters, resamples=500),
    )
    assert {key: getattr(pair, key) for key in vars(expected)} == pytest.approx(vars(expected))


def test_the_system_under_test_meets_every_other_and_each_other_the_baseline(systems):
    found = compare(systems, candidate="adapter", baseline="raw", resamples=200)
    met = [(pair.a, pair.b) for pair in found.comparisons if pair.measure == "MRR@10"]
    assert met == [("adapter", "raw"), ("adapter", "base"), ("base", "raw")]
    assert [p.p_corrected for p in found.comparisons] == correct([p.p for p in found.comparisons])
    alone = compare(systems, candidate="raw", resamples=200)
    assert {(pair.a, pair.b) for pair in alone.comparisons} == {("raw", "base"), ("raw", "adapter")}


def test_what_is_not_common_is_left_out_and_said(systems):
    fewer = dict(list(systems["base"].values["MRR@10"].items())[3:])
    systems["base"] = replace(systems["base"], values={"MRR@10": fewer}, notes=("All rows count.", "Greedy."))
    found = compare(systems, candidate="adapter", resamples=200)
    assert found.measures == ("MRR@10",)
    assert {row.n for row in found.rows} == {pair.n for pair in found.comparisons} == {42}
    assert found.notes == (
        "MRR@10 is over 42 rows; 3 that not all systems have are left out.",
        "nDCG@10 is left out: base has no value of it.",
        "All rows count.",
        "base: Greedy.",
    )


def test_slices_have_their_own_n_and_interval(systems):
    found = compare(systems, candidate="adapter", measures=["nDCG@10"], resamples=200)
    turns = [each for each in found.slices if each.row.system == "raw"]
    assert [(each.slice, each.value, each.row.n) for each in turns] == [("turn", v, 15) for v in "234"]
    assert turns[0].row.value == pytest.approx(
        sum(v for row, v in systems["raw"].values["nDCG@10"].items() if row.endswith("_2")) / 15
    )
    assert all(each.row.low < each.row.value < each.row.high for each in found.slices)


def test_slice_values_stand_in_the_order_of_numbers(systems):
    turns = {row: ["10", "9", "later"][index % 3] for index, row in enumerate(IDS)}
    systems["raw"] = replace(systems["raw"], slices={"turn": turns})
    systems = {"raw": systems["raw"]}
    found = compare(systems, candidate="raw", measures=["MRR@10"], resamples=200)
    assert [each.value for each in found.slices] == ["9", "10", "later"]
    assert found.comparisons == ()


def test_bad_calls(systems):
    with pytest.raises(UsageError, match="no system 'other'"):
        compare(systems, candidate="other")
    with pytest.raises(UsageError, match="no measure"):
        compare(systems, candidate="raw", measures=["P@1"])
    systems["base"] = replace(systems["base"], clusters={**CLUSTERS, IDS[0]: "elsewhere"})
    with pytest.raises(UsageError, match=f"row {IDS[0]} is in cluster"):
        compare(systems, candidate="raw")


def test_json_has_the_keys_of_the_results_and_no_nan(systems):
    one = {name: replace(each, clusters=dict.fromkeys(IDS, "one")) for name, each in systems.items()}
    content = to_json(compare(one, candidate="adapter", resamples=200), HEADER)
    agreed = ["benchmark", "command", "date", "machine", "versions", "rows", "comparisons"]
    assert list(content) == [*agreed, "slices", "slice_comparisons", "notes"]
    assert set(content["rows"][0]) == {"system", "measure", "value", "low", "high", "n"}
    assert {"a", "b", "measure", "difference", "low", "high", "p", "p_corrected"} < set(content["comparisons"][0])
    assert content["rows"][0]["low"] is None
    json.dumps(content, allow_nan=False)


def test_markdown_shows_every_figure_with_its_interval_and_n(systems):
    systems["base|x"] = replace(systems.pop("base"), invalid={IDS[0]: "no JSON"})
    found = compare(systems, candidate="adapter", resamples=200)
    text = to_markdown(found)
    row = found.row("adapter", "MRR@10")
    assert f"{row.value:.3f} ({row.low:.3f} to {row.high:.3f})" in text
    assert "| base\\|x |" in text and "| 45 | 1 |" in text
    assert "| adapter − raw | MRR@10 | +0." in text and "by Holm over the 4 rows" in text
    assert "* All rows count." in text
