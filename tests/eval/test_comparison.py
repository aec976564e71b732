"""A comparison covers the common rows, reports what it leaves out, and has the documented output."""

from __future__ import annotations

import json
import random
from dataclasses import replace

import pytest

from searchlora.errors import UsageError
from searchlora.eval.comparison import compare
from searchlora.eval.evaluation import Evaluation, evaluate_run
from searchlora.eval.intervals import bootstrap_interval
from searchlora.eval.significance import correct
from searchlora.eval.tables import Header, to_json, to_markdown
from tests.eval.test_significance import paired_difference

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


def test_figures_equal_the_statistics_functions(systems):
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


def test_the_candidate_is_compared_with_all_and_others_with_the_baseline(systems):
    found = compare(systems, candidate="adapter", baseline="raw", resamples=200)
    met = [(pair.a, pair.b) for pair in found.comparisons if pair.measure == "MRR@10"]
    assert met == [("adapter", "raw"), ("adapter", "base"), ("base", "raw")]
    assert [p.p_corrected for p in found.comparisons] == correct([p.p for p in found.comparisons])
    assert found.main_pairs == (("adapter", "raw"), ("adapter", "base"))
    alone = compare(systems, candidate="raw", resamples=200)
    assert {(pair.a, pair.b) for pair in alone.comparisons} == {("raw", "base"), ("raw", "adapter")}
    others = compare(systems, baseline="base", resamples=200)
    assert (others.candidate, others.baseline) == (None, "base")
    assert {(p.a, p.b) for p in others.comparisons} == set(others.main_pairs) == {("raw", "base"), ("adapter", "base")}


def test_rows_not_common_to_all_are_left_out_and_reported(systems):
    fewer = dict(list(systems["base"].values["MRR@10"].items())[3:])
    systems["base"] = replace(systems["base"], values={"MRR@10": fewer}, notes=("All rows count.", "Greedy."))
    found = compare(systems, candidate="adapter", resamples=200)
    assert found.measures == ("MRR@10", "nDCG@10")
    assert {row.n for row in found.rows if row.measure == "MRR@10"} == {42}
    assert [pair.n for pair in found.comparisons] == [42, 42, 45]
    assert found.find("base", "nDCG@10") is None and found.row_measure == "MRR@10"
    assert found.notes == (
        "MRR@10 is over 42 rows; 3 that not all systems have are left out.",
        "nDCG@10 is shown without base, which has no value of it.",
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


def test_pairs_within_a_slice_are_those_of_its_rows_alone(systems):
    found = compare(systems, candidate="adapter", baseline="raw", resamples=200)
    assert len(found.slice_pairs) == 3 * 3 * 2
    rows = [row for row in IDS if row.endswith("_3")]
    for measure in ("MRR@10", "nDCG@10"):
        a, b = ([systems[name].values[measure][row] for row in rows] for name in ("adapter", "base"))
        expected = paired_difference(a, b, [CLUSTERS[row] for row in rows], resamples=200)
        (each,) = [
            each.pair
            for each in found.slice_pairs
            if (each.slice, each.value, each.pair.measure) == ("turn", "3", measure)
            and (each.pair.a, each.pair.b) == ("adapter", "base")
        ]
        assert {key: getattr(each, key) for key in vars(expected)} == pytest.approx(vars(expected))
        assert each.n == 15
    chances = [each.pair.p for each in found.slice_pairs]
    assert [each.pair.p_corrected for each in found.slice_pairs] == correct(chances)


def test_only_tested_measures_are_compared_also_within_slices(systems):
    systems["adapter"] = replace(systems["adapter"], tested=("nDCG@10",))
    found = compare(systems, candidate="adapter", resamples=200)
    assert {pair.measure for pair in found.comparisons} == {"nDCG@10"}
    assert {each.pair.measure for each in found.slice_pairs} == {"nDCG@10"}
    assert {each.row.measure for each in found.slices} == {"nDCG@10", "MRR@10"}


def test_unjudged_sensitivity_figures_have_intervals(systems):
    judged = {row: index / 45 for index, row in enumerate(IDS)}
    systems["raw"] = replace(systems["raw"], unjudged={"Judged@10": judged, "MRR@10 condensed": judged})
    systems["base"] = replace(systems["base"], unjudged={"Judged@10": judged})
    found = compare(systems, candidate="adapter", resamples=200)
    assert [(row.system, row.measure) for row in found.unjudged] == [("raw", "Judged@10"), ("base", "Judged@10")]
    expected = bootstrap_interval(list(judged.values()), [CLUSTERS[row] for row in IDS], resamples=200)
    assert (found.unjudged[0].low, found.unjudged[0].high) == pytest.approx(expected)


def test_invalid_arguments_are_errors(systems):
    with pytest.raises(UsageError, match="no system 'other'"):
        compare(systems, candidate="other")
    with pytest.raises(UsageError, match="neither a candidate nor a baseline"):
        compare(systems)
    with pytest.raises(UsageError, match="cannot be both"):
        compare(systems, candidate="raw", baseline="raw")
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
    assert "| base\\|x |" in text and "| 45 | 1 of 45 |" in text
    pair = found.pair("adapter", "raw", "MRR@10")
    assert f"| adapter − raw | **{pair.difference:+.3f}** ({pair.low:+.3f} to {pair.high:+.3f}) |" in text
    assert "corrected by Holm over all 4 comparisons" in text
    assert "* All rows count." in text
    assert "Unjudged" not in text


@pytest.mark.parametrize("roles", [{"candidate": "adapter"}, {"baseline": "adapter"}])
def test_a_circular_system_is_marked_wherever_it_is_named(systems, roles, capsys):
    systems["adapter"] = replace(
        systems["adapter"],
        circular="its own judge",
        unjudged={f"{m} condensed": systems["adapter"].values[m] for m in ("MRR@10", "nDCG@10")}
        | {"Judged@10": dict.fromkeys(IDS, 0.5)},
        costs={"ms per query": 2.5},
    )
    found = compare(systems, resamples=100, **roles)
    text = to_markdown(found)
    assert text.count("adapter (circular)") == text.count("adapter") > 10
    assert "its own judge" in text and "### Unjudged documents" in text
    content = to_json(found, HEADER)
    for key in ("rows", "slices", "unjudged"):
        assert all(("circular" in row) == (row["system"] == "adapter") for row in content[key])
    for key in ("comparisons", "slice_comparisons"):
        assert content[key]
        assert all(row.get("circular") == "its own judge" for row in content[key] if "adapter" in (row["a"], row["b"]))
    from searchlora.cli.terminal import print_comparison

    print_comparison(found)
    screen = capsys.readouterr().out
    assert screen.count("adapter (circular)") >= 2 and "its own judge" in screen


@pytest.mark.parametrize(
    ("measures", "shown"),
    [
        (("P@5", "nDCG@10"), ["P@5", "nDCG@10"]),
        (("nDCG@10", "P@5"), ["nDCG@10", "P@5"]),
        (("P@5", "AP", "MRR@10", "nDCG@10"), ["P@5", "nDCG@10", "MRR@10"]),
    ],
)
def test_the_screen_shows_the_headline_first(measures, shown, capsys):
    from searchlora.cli.terminal import print_comparison

    run, qrels = {"q1": {"d1": 1.0}, "q2": {"d9": 1.0}}, {"q1": {"d1": 1}, "q2": {"d2": 1}}
    systems = {name: evaluate_run(run, qrels, measures=measures) for name in ("ours", "theirs")}
    print_comparison(compare(systems, candidate="ours", resamples=100))
    header = next(line for line in capsys.readouterr().out.splitlines() if measures[0] in line)
    assert [name for name in header.replace("┃", " ").split() if "@" in name or name == "AP"] == shown
