"""The summary sentences of a report agree with its figures."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from searchlora.eval.comparison import PairedComparison, SystemScore, compare
from searchlora.eval.evaluation import Evaluation
from searchlora.eval.report.comparison import Chapter, summary, write_overview
from tests.eval.report.page import comparison

HEADLINE = "nDCG@10"


@pytest.fixture(scope="module")
def compared():
    return replace(comparison("strong", "base"), unjudged=())


def pair(a, b, difference, p, low=-0.01, high=0.3):
    return PairedComparison(a, b, HEADLINE, difference, low, high, p, p, 5, 4, 3, 12, p, 0.5, 0.1)


@pytest.mark.parametrize(
    ("difference", "low", "high", "p", "says"),
    [
        (0.21, 0.18, 0.24, 0.0003, "a beats b by 0.210 nDCG@10 (0.180 to 0.240), p < 0.001."),
        (-0.21, -0.24, -0.18, 0.002, "a falls behind b by 0.210 nDCG@10 (0.180 to 0.240), p = 0.002."),
        (
            0.01, -0.02, 0.04, 0.4,
            "a is not shown to differ from b: the difference in nDCG@10 is +0.010 (-0.020 to +0.040), p = 0.400.",
        ),
        (0.04, -0.001, 0.08, 0.049, "a beats b by 0.040 nDCG@10 (-0.001 to +0.080), p = 0.049."),
        (0.04, math.nan, math.nan, 0.02, "a beats b by 0.040 nDCG@10 (no interval), p = 0.020."),
    ],
)  # fmt: skip
def test_summary_of_one_pair(compared, difference, low, high, p, says):
    row = replace(compared.rows[0], system="a")
    pairs = (pair("a", "b", difference, p, low, high),)
    found = replace(compared, systems=("a", "b"), candidate="a", baseline=None, comparisons=pairs, rows=(row,))
    message = [sentence.replace("\N{NO-BREAK SPACE}", " ") for sentence in summary(found)]
    assert message == [f"a reaches nDCG@10 {row.value:.3f} ({row.low:.3f} to {row.high:.3f}) over 40 rows.", says]


def test_summary_of_systems_against_a_baseline(compared):
    names = ["base", *(f"s{number}" for number in range(8))]
    ps = [0.001, 0.001, 0.001, 0.001, 0.001, 0.001, 0.5, 0.6]
    signs = [1, 1, 1, 1, 1, -1, 1, 1]
    pairs = tuple(pair(name, "base", 0.1 * sign, p) for name, sign, p in zip(names[1:], signs, ps, strict=True))
    found = replace(
        compared, systems=tuple(names), candidate=None, baseline="base", comparisons=pairs, circular={"s5": "a judge"}
    )
    assert summary(found)[1:] == [
        "In nDCG@10, of 8 systems, base beats 1 (s5 (circular)), falls behind 5 (s0, s1, s2, s3, 1 more), and is not "
        "shown to differ from 2."
    ]


def test_summary_compares_the_candidate_with_the_baseline_first(compared):
    names = ["new", "old", *(f"s{number}" for number in range(5))]
    pairs = tuple(pair("new", name, 0.1, 0.001) for name in names[1:])
    found = replace(compared, systems=tuple(names), candidate="new", baseline="old", comparisons=pairs,
                    rows=(replace(compared.rows[0], system="new"),))  # fmt: skip
    message = summary(found)
    assert message[1].startswith("new beats old by 0.100 nDCG@10")
    assert message[2:] == [
        "In nDCG@10, of 6 systems, new beats 6 (old, s0, s1, s2, 2 more), falls behind none, and is not shown to "
        "differ from none."
    ]


@pytest.mark.parametrize(
    ("shares", "message"),
    [
        ({"strong": 1.0, "base": 1.0}, []),
        ({"strong": 0.9, "base": 0.5}, ["Of the first 10 documents, 50% are judged for base and 90% for strong."]),
    ],
)
def test_summary_states_the_share_of_judged_documents(compared, shares, message):
    rows = tuple(SystemScore(name, "Judged@10", share, share, share, 40) for name, share in shares.items())
    assert summary(replace(compared, comparisons=(), unjudged=rows))[1:] == message


# The overview page of all tasks: figures of each task


def two_systems(measure: str, ours: float):
    rows = [f"r{n}" for n in range(20)]
    return compare(
        {
            name: Evaluation(measure, {measure: {row: share * (n % 3) for n, row in enumerate(rows)}}, {})
            for name, share in (("base", 0.1), ("ours", ours))
        },
        candidate="ours",
        resamples=200,
    )


def test_each_task_has_its_figures_and_a_link(tmp_path):
    chapters = [
        Chapter("rewriting", two_systems("nDCG@10", 0.4), "evaluation/report.html"),
        Chapter("intent", two_systems("accuracy", 0.3), "intent/evaluation/report.html"),
    ]
    page = write_overview(tmp_path / "report.html", "All", chapters, {"Date": "today"}).read_text("utf-8")
    for chapter in chapters:
        row = chapter.comparison.row("ours", chapter.comparison.measures[0])
        assert f"ours reaches {row.measure} {row.value:.3f}" in page
        assert f'href="{chapter.details}"' in page
    assert page.count('id="task-1"') == page.count('id="task-2"') == 1
