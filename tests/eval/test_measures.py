"""Retrieval measures equal trec_eval; ROUGE-L equals rouge-score."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics
from statsmodels.stats.proportion import proportion_confint

from searchlora.errors import UsageError
from searchlora.eval.formats import read_qrels
from searchlora.eval.grade_measures import grade_measures
from searchlora.eval.intervals import proportion
from searchlora.eval.measures import retrieval_notes, retrieval_values, rouge_l
from searchlora.eval.trec import ranked, read_run, write_qrels, write_run
from searchlora.eval.unjudged import unjudged_values

QRELS = {"1": {"a": 1, "b": 0}, "2": {"c": 2}, "3": {"d": 1}}


def test_values_of_a_worked_example():
    run = {"1": {"b": 2.0, "a": 1.0}, "2": {"c": 1.0}, "4": {"a": 1.0}}
    values = retrieval_values(run, QRELS)
    assert values["MRR@10"] == {"1": 0.5, "2": 1.0, "3": 0.0}
    assert values["Recall@100"] == {"1": 1.0, "2": 1.0, "3": 0.0}
    assert values["nDCG@10"] == pytest.approx({"1": 0.6309297535714575, "2": 1.0, "3": 0.0})


def test_mrr_stops_at_its_cutoff():
    run = {"1": {**{f"x{i:02}": 99.0 - i for i in range(9)}, "a": 1.0}}
    assert retrieval_values(run, {"1": {"a": 1}}, ["MRR@10"])["MRR@10"] == {"1": 0.1}
    run["1"]["y"] = 2.0
    assert retrieval_values(run, {"1": {"a": 1}}, ["MRR@10", "MRR"]) == {
        "MRR@10": {"1": 0.0},
        "MRR": pytest.approx({"1": 1 / 11}),
    }


def test_any_measure_of_ir_measures_is_accepted():
    run = {"2": {"c": 1.0}}
    values = retrieval_values(run, QRELS, ["P@1", "AP(rel=2)", "Judged@1", "MRR(rel=3)@10"])
    assert [rows["2"] for rows in values.values()] == [1.0, 1.0, 1.0, 0.0]
    assert all(set(rows) == set(QRELS) for rows in values.values())


@pytest.mark.slow
def test_many_measures_in_one_pass_equal_single_passes(real_data, tmp_path):
    import ir_measures

    names = ["nDCG@10", "nDCG", "nDCG(gains={3:7,2:3})@10", "AP", "AP(rel=2)", "AP(rel=2)@50", "RR(rel=2)", "P@5",
             "P(rel=3)@10", "R@50", "Rprec", "Bpref", "Success@1", "SetF", "IPrec@0.2", "nDCG(judged_only=True)@5",
             "RR(judged_only=True)", "NumRet"]  # fmt: skip
    run, qrels = _dl19(real_data, tmp_path)
    ours = retrieval_values(run, qrels, names)
    assert list(ours) == names
    for name in names:
        alone = ir_measures.pytrec_eval.iter_calc([ir_measures.parse_measure(name)], qrels, run)
        assert ours[name] == pytest.approx({each.query_id: each.value for each in alone}, abs=1e-9), name


def test_other_providers_see_the_ranking_of_trec_eval():
    """Ties are ranked by descending document id by every provider."""
    run = {"2": {"b": 1.0, "c": 1.0, "a": 1.0}}
    values = retrieval_values(run, QRELS, ["Judged@1", "MRR", "Compat(p=0.8)"])
    assert values["Judged@1"]["2"] == values["MRR"]["2"] == 1.0
    assert values["Compat(p=0.8)"]["2"] > values["Compat(p=0.8)"]["1"] == 0.0


def test_err_works_for_any_topic_and_document_ids():
    """gdeval writes files with blanks between the columns and takes topics for numbers; it prints five digits."""
    qrels = {"shoes a-1": {"b 1": 3, "a|1": 0, "c": 1}, "2": {"x": 2}, "3": {"y": 1}}
    run = {"shoes a-1": {"a|1": 2.0, "b 1": 2.0, "new": 1.0, "c": 0.5}, "2": {"x": 1.0}}
    values = retrieval_values(run, qrels, ["ERR@10", "nDCG@10", "nDCG(dcg='exp-log2')@10"])
    stops = [2**3 - 1, 0, 0, 2**1 - 1]  # the b before the a, since it is a tie
    expected, on = 0.0, 1.0
    for rank, gain in enumerate(stops, start=1):
        expected += on * gain / 16 / rank
        on *= 1 - gain / 16
    assert values["ERR@10"] == pytest.approx({"shoes a-1": expected, "2": 3 / 16, "3": 0.0}, abs=1e-5)
    assert values["nDCG(dcg='exp-log2')@10"]["2"] == pytest.approx(1, abs=1e-5)


def test_an_empty_run_scores_zero():
    assert retrieval_values({"1": {}}, QRELS, ["nDCG@10"]) == {"nDCG@10": {"1": 0.0, "2": 0.0, "3": 0.0}}


def test_notes_report_topics_left_out_and_topics_scored_zero():
    assert retrieval_notes({"1": {"a": 1.0}, "2": {}, "9": {"a": 1.0}}, QRELS) == (
        "1 topic (9) of the run have no judgments and are left out.",
        "2 topics (2, 3) found nothing and count 0.",
    )


@pytest.mark.parametrize(
    "name",
    [
        *("nDCG@10^20", f"nDCG@{10**20}", f"Success@{2**31}", f"RR(rel={10**20})", f"MRR@{10**400}", "IPrec@1e400"),
        *(f"SetF(beta={10**400})", "RBP(p=1e400)", "AP@True", "P(rel=True)@5", "P@0", "nDCG@0", "nDCG@-1", "AP(rel=0)"),
        *("MRR@0", "nDCG@" + "-" * 100_000 + "1", "\x00", "\ud800"),
    ],
    ids=lambda name: ascii(name)[:20],
)
def test_a_measure_whose_parameter_cannot_be_computed_is_refused(name):
    with pytest.raises(UsageError, match="is not a measure"):
        retrieval_values({"1": {"a": 1.0}}, QRELS, [name])
    assert retrieval_values({"1": {"a": 1.0}}, QRELS, [f"nDCG@{2**31 - 1}"])


def test_unknown_measures_and_missing_judgments_are_errors():
    for name in ("Foo@3", "nDCG@", "nDCG(dcg=2", "nDCG(dcg=2)", "P", "MRR(colour=1)@10", "SDCG@10"):
        with pytest.raises(UsageError, match="is not a measure"):
            retrieval_values({"1": {"a": 1.0}}, QRELS, [name])
    with pytest.raises(UsageError, match="alpha_nDCG@10 cannot be computed here"):
        retrieval_values({"1": {"a": 1.0}}, QRELS, ["nDCG@10", "alpha_nDCG@10"])
    with pytest.raises(UsageError, match="no judgments"):
        retrieval_values({}, {})


def test_published_trec_dl_2019_values_are_reproduced(real_data, tmp_path):
    run, qrels = _dl19(real_data, tmp_path)
    values = retrieval_values(run, qrels, ["nDCG@10"])["nDCG@10"]
    assert len(values) == 43
    assert sum(values.values()) / 43 == pytest.approx(0.5058, abs=5e-5)


@pytest.mark.slow
def test_same_as_ir_measures_reading_the_files_itself(real_data, tmp_path):
    import ir_measures
    from ir_measures import R, nDCG

    run, qrels = _dl19(real_data, tmp_path)
    theirs = ir_measures.pytrec_eval.calc_aggregate(
        [nDCG @ 10, R @ 100],
        list(ir_measures.read_trec_qrels(str(tmp_path / "qrels"))),
        list(ir_measures.read_trec_run(str(tmp_path / "run"))),
    )
    ours = retrieval_values(run, qrels, ["nDCG@10", "R@100"])
    means = [sum(rows.values()) / len(rows) for rows in ours.values()]
    assert means == pytest.approx([theirs[nDCG @ 10], theirs[R @ 100]], abs=1e-9)


def _dl19(real_data, tmp_path):
    folder = real_data / "trecdl19"
    run = {
        str(hit["qid"]): {str(h["docid"]): float(h["score"]) for h in topic["hits"]}
        for topic in json.loads((folder / "bm25_top100_dl19.json").read_text())
        for hit in topic["hits"]
    }
    write_run(tmp_path / "run", run, "tag")
    write_qrels(tmp_path / "qrels", read_qrels(folder / "qrels.dl19-passage.txt"))
    return read_run(tmp_path / "run"), read_qrels(tmp_path / "qrels")


def test_rouge_l_is_the_f_measure_of_the_longest_common_subsequence():
    # "a c" is a subsequence of the reference: precision 2/2, recall 2/4.
    assert rouge_l(["a c"], ["a b c d"]) == pytest.approx([2 * 1 * 0.5 / 1.5])
    assert rouge_l(["a b c", "x"], ["a b c", "y"]) == [1.0, 0.0]
    assert rouge_l(["Палатка весит два килограмма"], ["палатка весит 2 килограмма"]) == [pytest.approx(0.75)]


def test_lengths_must_agree():
    with pytest.raises(UsageError, match="2 outputs"):
        rouge_l(["a", "b"], ["a"])
    with pytest.raises(UsageError, match="no outputs"):
        rouge_l([], [])


# Measures of grades over rows, and intervals of rare shares: exact for independent pairs, wider if clustered

SIZES = np.full(25, 160.0)


def test_measures_over_rows_count_an_invalid_grade_as_the_worst():
    measures = grade_measures((0, 1, 2, 3), 2)
    rng = np.random.default_rng(1)
    gold = {f"r{n}": int(rng.integers(4)) for n in range(80)}
    predicted = {row: grade if rng.random() < 0.5 else int(rng.integers(4)) for row, grade in gold.items()}
    pair = list(gold.values()), list(predicted.values())
    over_rows = {name: measure.aggregate(gold, predicted).value for name, measure in measures.items()}
    assert over_rows["kappa"] == pytest.approx(metrics.cohen_kappa_score(*pair))
    assert over_rows["kappa_quadratic"] == pytest.approx(metrics.cohen_kappa_score(*pair, weights="quadratic"))
    two = [[grade >= 2 for grade in side] for side in pair]
    assert over_rows["kappa_binary"] == pytest.approx(metrics.cohen_kappa_score(*two))
    assert over_rows["mae"] == pytest.approx(metrics.mean_absolute_error(*pair))
    assert over_rows["bias"] == pytest.approx(np.subtract(pair[1], pair[0]).mean())
    assert measures["mae"].aggregate({"1": 2}, {"1": None}).value == 2
    assert measures["mae"].aggregate({"1": 2}, {"1": 9}).value == 2
    assert np.isnan(measures["bias"].aggregate({"1": 2}, {"1": None}).value)
    with pytest.raises(UsageError, match="does not divide the scale"):
        grade_measures((0, 1, 2, 3), 0)


def test_intervals_of_zero_and_one_are_exact():
    assert proportion(np.zeros(25), SIZES) == pytest.approx((0, *proportion_confint(0, 4000, method="beta")))
    assert proportion(np.array([50.0]), np.array([100.0])) == (0.5, 0, 1)  # one query says nothing of others
    assert proportion(SIZES, SIZES) == pytest.approx((1, *proportion_confint(4000, 4000, method="beta")))


def test_clustered_failures_have_a_wider_interval():
    scattered, bunched = np.full(25, 2.0), np.zeros(25)
    bunched[:5] = 10
    share, low, high = proportion(scattered, SIZES)
    assert (share, low, high) == pytest.approx((50 / 4000, *proportion_confint(50, 4000, method="beta")))
    wide = proportion(bunched, SIZES)
    assert wide[0] == share and wide[1] < low and wide[2] > high


@pytest.mark.slow
@pytest.mark.parametrize("bunched", [0.0001, 0.01])
def test_a_share_of_2_percent_is_covered(bunched):
    rng = np.random.default_rng(1)
    hits = 0
    for _ in range(400):
        of_query = rng.beta(0.02 * (1 / bunched - 1), 0.98 * (1 / bunched - 1), 25)
        _, low, high = proportion(rng.binomial(160, of_query).astype(float), SIZES)
        hits += low <= 0.02 <= high
    assert hits / 400 >= 0.925


# Sensitivity to unjudged documents: worked examples and invariants

#: Best first: u1 and u2 were never judged.
RUN = {"1": {"u1": 5.0, "no": 4.0, "u2": 3.0, "good": 2.0, "fair": 1.0}}
JUDGED = {"1": {"no": 0, "good": 2, "fair": 1, "missed": 1}}


def dcg(*grades: int) -> float:
    return sum(grade / math.log2(rank + 1) for rank, grade in enumerate(grades, start=1))


def test_unjudged_values_of_a_worked_example():
    found = unjudged_values(RUN, JUDGED, ["nDCG@3", "MRR@3", "Recall@3", "AP"])
    values = {name: rows["1"] for name, rows in found.items()}
    assert values["Judged@3"] == pytest.approx(1 / 3)
    # Taken out: no, good, fair.
    assert values["nDCG@3 condensed"] == pytest.approx(dcg(0, 2, 1) / dcg(2, 1, 1))
    assert values["MRR@3 condensed"] == pytest.approx(1 / 2)
    assert values["Recall@3 condensed"] == pytest.approx(2 / 3)
    assert values["AP condensed"] == pytest.approx((1 / 2 + 2 / 3) / 3)


def test_a_topic_without_results_scores_zero_and_judged_follows_the_cutoff():
    found = unjudged_values({"1": {}}, JUDGED, ["nDCG@3", "P@20"])
    assert {name: rows["1"] for name, rows in found.items()} == dict.fromkeys(
        ["nDCG@3 condensed", "P@20 condensed", "Judged@3", "Judged@20"], 0.0
    )
    assert list(unjudged_values(RUN, JUDGED, ["AP"])) == ["AP condensed", "Judged@10"]


def test_measures_without_a_condensed_form_are_skipped():
    assert list(unjudged_values(RUN, JUDGED, ["Bpref", "AP(judged_only=True)", "Judged@5"])) == ["Judged@10"]


SCORES = st.sampled_from([1.0, 2.0, 3.0, 3.0 + 1e-9])
RUNS = st.dictionaries(st.sampled_from("abcdefghij"), SCORES, max_size=10)
GRADES = st.dictionaries(st.sampled_from("acegikm"), st.integers(0, 3), min_size=1)


@pytest.mark.slow
@settings(max_examples=100, deadline=None)
@given(run=RUNS, grades=GRADES)
def test_fully_judged_runs_are_unchanged(run, grades):
    judged = {**dict.fromkeys(run, 0), **grades}
    measures = ["nDCG@5", "RR", "AP"]
    plain, found = (
        retrieval_values({"1": run}, {"1": judged}, measures),
        unjudged_values({"1": run}, {"1": judged}, measures),
    )
    for measure in measures:
        assert found[f"{measure} condensed"] == plain[measure]
    assert found["Judged@5"]["1"] == (1 if run else 0)


@pytest.mark.slow
@settings(max_examples=150, deadline=None)
@given(run=RUNS, grades=GRADES, cutoff=st.integers(1, 12))
def test_judged_equals_ir_measures_except_for_ties(run, grades, cutoff):
    import ir_measures
    from ir_measures import Judged

    places = {document: float(-place) for place, document in enumerate(ranked(run))}
    metrics = ir_measures.iter_calc([Judged @ cutoff], {"1": grades}, {"1": places}) if run else ()
    theirs = {metric.query_id: metric.value for metric in metrics} or {"1": 0}
    ours = unjudged_values({"1": run}, {"1": grades}, [f"P@{cutoff}"])[f"Judged@{cutoff}"]
    assert ours == pytest.approx(theirs)
