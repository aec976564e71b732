"""The report: one file, everything escaped, what it says is what the figures say."""

from __future__ import annotations

import random
import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from searchlora.errors import DataError
from searchlora.eval.compare import Pair, compare
from searchlora.eval.evaluation import Evaluation
from searchlora.eval.report import Answer, Detail, Found, extremes, write_report
from searchlora.eval.report.words import summary

EVIL = "<script>alert('$x$ & $y$')</script>"
IDS = [f"q{number}" for number in range(30)]


def evaluation(mean: float, seed: int, **more) -> Evaluation:
    rng = random.Random(seed)
    measures = ("nDCG@10", "MRR@10")
    return Evaluation(
        headline="nDCG@10",
        values={measure: {row: rng.betavariate(mean * 4, 4 - mean * 4) for row in IDS} for measure in measures},
        clusters={row: row for row in IDS},
        slices={f"kind {EVIL}": {row: EVIL if int(row[1:]) % 2 else "plain" for row in IDS}},
        totals={f"BLEU {EVIL}": 12.0},
        notes=(f"note {EVIL}",),
        **more,
    )


@pytest.fixture
def comparison():
    systems = {
        f"raw {EVIL}": evaluation(0.2, 1),
        f"adapter {EVIL}": evaluation(0.7, 2, invalid={"q3": f"reason {EVIL}"}),
    }
    return compare(systems, candidate=f"adapter {EVIL}", resamples=300)


@pytest.fixture
def page(comparison, tmp_path):
    answer = Answer(f"output {EVIL}", (Found("d1", f"title {EVIL}", 3), Found("d2")))
    answers = dict.fromkeys(comparison.systems, answer)
    details = {row: Detail(f"query {row} {EVIL}\nturn", answers, reference=f"wanted {EVIL}") for row in IDS}
    path = write_report(
        tmp_path / "out" / "r.html", f"title {EVIL}", comparison, details, {f"Dataset {EVIL}": f"sha256 {EVIL}"},
        introduction=f"intro {EVIL}",
    )  # fmt: skip
    return path.read_text(encoding="utf-8")


class _Reader(HTMLParser):
    """Tags in balance, their names, and every address that a browser would fetch."""

    VOID = frozenset({"meta", "br", "hr", "img", "input", "link"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: set[str] = set()
        self.addresses: list[str] = []

    def handle_starttag(self, tag, attrs):
        self.seen.add(tag)
        self.addresses += [value for name, value in attrs if name in ("src", "href", "srcset") and value]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in self.VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_page_is_whole_and_needs_nothing_from_outside(page):
    reader = _Reader()
    reader.feed(page)
    assert reader.open == []
    assert not reader.seen & {"script", "link", "img", "iframe"}
    assert all(address.startswith("#") for address in reader.addresses)
    assert "@import" not in page and "url(http" not in page


def test_everything_is_escaped(page):
    assert EVIL not in page
    for text in [
        "title",
        "query",
        "output",
        "wanted",
        "reason",
        "note",
        "Dataset",
        "sha256",
        "raw",
        "kind",
        "BLEU",
        "intro",
    ]:
        assert re.search(rf"{text}[^<]*&lt;script&gt;", page), text


def test_ids_of_the_plots_do_not_clash(page):
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert ids and len(ids) == len(set(ids))


def test_same_figures_give_the_same_page(comparison, tmp_path):
    one, two = (write_report(tmp_path / name, "t", comparison, {}, {}).read_bytes() for name in "ab")
    assert one == two
    assert b"Wins and losses" not in one  # no texts were given


def test_plots_take_the_colours_of_the_page(page):
    plots = re.findall(r"<svg.*?</svg>", page, flags=re.DOTALL)
    assert len(plots) == 2
    for plot in plots:
        assert "var(--" in plot
        assert not re.findall(r"(?:fill|stroke): #(?!000000)[0-9a-f]{6}", plot)


def test_figures_stand_in_the_page(page, comparison):
    for row in comparison.rows:
        assert f"{row.value:.3f}<small>({row.low:.3f} to {row.high:.3f})</small>" in page
    assert "p by two-sided paired randomisation over groups, corrected by Holm over all 2 comparisons" in page


def test_extremes_are_wins_and_losses_only(comparison):
    wins, losses = extremes(comparison, *reversed(comparison.systems), 40)
    ours, theirs = (comparison.values["nDCG@10"][system] for system in reversed(comparison.systems))
    assert all(ours[row] > theirs[row] for row in wins)
    assert all(ours[row] < theirs[row] for row in losses)
    assert len(wins) + len(losses) == 30
    assert extremes(comparison, *reversed(comparison.systems), 1) == ([wins[0]], [losses[0]])
    assert extremes(comparison, comparison.systems[0], comparison.systems[0], 3) == ([], [])


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
        (0.04, float("nan"), float("nan"), 0.02, "a beats b by 0.040 nDCG@10 (no interval), p = 0.020."),
    ],
)  # fmt: skip
def test_words(comparison, difference, low, high, p, says):
    pair = Pair("a", "b", "nDCG@10", difference, low, high, p, p, 5, 4, 3, 12, p, 0.5, 0.1)
    row = replace(comparison.rows[0], system="a")
    said = summary(replace(comparison, systems=("a", "b"), candidate="a", comparisons=(pair,), rows=(row,)))
    assert said[1].replace("\N{NO-BREAK SPACE}", " ") == says
    assert said[0] == f"a reaches nDCG@10 {row.value:.3f} ({row.low:.3f} to {row.high:.3f}) over 30 rows."


def test_one_system_alone_and_one_cluster(tmp_path):
    one = replace(evaluation(0.3, 4), clusters=dict.fromkeys(IDS, "one"), slices={}, totals={})
    page = write_report(tmp_path / "r", "t", compare({"raw": one}, candidate="raw", resamples=50), {}, {}).read_text()
    assert "(no interval)" in page and not re.search(r"\bnan\b", page)
    assert "Paired comparisons" not in page and "Slices" not in page


def test_unwritable_place(comparison, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot be written"):
        write_report(tmp_path / "file" / "r.html", "t", comparison, {}, {})
