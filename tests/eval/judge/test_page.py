"""The HTML page of judge cards, parsed and compared with the cards."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from searchlora.eval.calibration import grade_curve
from searchlora.eval.formatting import interval, p_value
from searchlora.eval.judge.card import judge_card
from searchlora.eval.judge.comparison import compare_judges
from searchlora.eval.judge.page import HEADINGS, OVERVIEW_FIGURES, write_judge_card
from tests.eval.report.page import Page

SCALE = (0, 1, 2, 3)
OPTIONS = {"resamples": 200, "seed": 1}
HUMAN = {f"q{topic}": {f"d{doc}": (topic * doc + doc) % 4 for doc in range(12)} for topic in range(12)}


def noisy(keep: float, seed: int, invalid: float = 0.0):
    rng = random.Random(seed)
    return {
        topic: {
            doc: None if rng.random() < invalid else grade if rng.random() < keep else rng.choice(SCALE)
            for doc, grade in row.items()
        }
        for topic, row in HUMAN.items()
    }


JUDGES = {"poor": noisy(0.3, 1), "good": noisy(0.9, 2), "middling": noisy(0.6, 3, invalid=0.1)}


@pytest.fixture(scope="module")
def cards():
    raters = {"ann": HUMAN, "ben": noisy(0.8, 4)}
    return [
        judge_card(
            HUMAN, labels, name=name, raters=raters,
            circular=("it was trained on these topics",) if name == "middling" else (),
            notes=(f"a note on {name}",), **OPTIONS,
        )
        for name, labels in JUDGES.items()
    ]  # fmt: skip


@pytest.fixture(scope="module")
def curves():
    valid = {
        name: {topic: {doc: grade for doc, grade in row.items() if grade is not None} for topic, row in labels.items()}
        for name, labels in JUDGES.items()
    }
    return {name: grade_curve(HUMAN, labels) for name, labels in valid.items()}


@pytest.fixture(scope="module")
def comparison():
    return compare_judges(HUMAN, JUDGES, **OPTIONS)


@pytest.fixture(scope="module")
def page(cards, curves, comparison, tmp_path_factory):
    path = tmp_path_factory.mktemp("cards") / "judge_card.html"
    provenance = {"human.qrels": "sha256 " + "ab" * 32}
    return Page(write_judge_card(path, "Judges", cards, provenance, comparison=comparison, curves=curves))


def figure(found, sign="", form=".3f"):
    if form == ".3f":
        return (f"{found.value:{sign}.3f}", interval(found.low, found.high, sign))
    return (f"{found.value:{form}}", f"({found.low:{form}} to {found.high:{form}})")


def named(name, found):
    return figure(found, "+" if name == "bias" else "", ".2%" if name == "invalid" else ".3f")


@pytest.mark.slow
def test_page_is_valid_html(page):
    page.check_whole()
    assert page.sections() == ["Judges", "Which judges differ", "Judge by judge", "Provenance"]
    assert [text for text in page.texts if text.startswith("sha256")] == ["sha256 " + "ab" * 32]


def test_judges_are_ordered_by_kappa_below_human_agreement(page, cards):
    head, people, *lines = page.tables["All judges"]
    assert [cell[0] for cell in head[1:-1]] == [HEADINGS[name] for name in OVERVIEW_FIGURES]
    two = cards[0].people.pairs[0]
    assert people[0] == ("people: ann, ben",) and people[1] == figure(two.kappa) and people[-2] == ("–",)
    ranked = sorted(cards, key=lambda card: -card.figures["kappa"].value)
    assert [line[0][0] for line in lines] == ["good", "middling (circular)", "poor"]
    for card, line in zip(ranked, lines, strict=True):
        assert line[1:-1] == [named(name, card.figures[name]) for name in OVERVIEW_FIGURES]
        assert line[-1] == (str(card.n), f"{card.queries} queries")


def test_significant_differences_between_judges_are_listed(page, comparison):
    lines = {line[0][0]: line[1:] for line in page.tables["Which judges differ"][1:]}
    assert list(lines) == ["good", "middling (circular)", "poor"]
    for name in JUDGES:
        shown = f"{name} (circular)" if name == "middling" else name
        own = [each for each in comparison.differences if name in (each.a, each.b)]
        apart = [each for each in own if each.p_corrected <= 0.05]
        wins = sum(each.a == name for each in apart)
        counts = [(str(count),) for count in (wins, len(apart) - wins, len(own) - len(apart))]
        assert lines[shown][2:] == counts
        if name != "good":
            found = next(each for each in own if each.a == "good")
            assert lines[shown][0] == (f"{found.difference:+.3f}", interval(found.low, found.high, "+"))
            assert lines[shown][1] == (p_value(found.p_corrected),)


def test_each_judge_has_a_section(page, cards, curves):
    for card in cards:
        name = f"{card.judge} (circular)" if card.circular else card.judge
        head, *lines = page.tables[f"Confusion matrix of {name}"]
        assert [cell[0] for cell in head[1:]] == [*map(str, card.scale), "invalid"]
        for line, counts, grade in zip(lines, card.confusion, card.scale, strict=True):
            assert line[0] == (str(grade), f"n = {sum(counts)}")
            assert line[1:] == [(str(c), f"{c / sum(counts):.0%}") if c else ("0",) for c in counts]
        reported = {line[0][0]: line[1:] for line in page.tables[f"Agreement of {name}"][1:]}
        for key, found in card.figures.items():
            if card.invalid or not key.endswith("_valid"):
                assert reported.pop(HEADINGS[key]) == [named(key, found), (str(found.n),)]
        assert reported == {}
        for line, grade in zip(page.tables[f"Grades of {name}"][1:], card.grades, strict=True):
            counts = [(str(each),) for each in (grade.grade, grade.human, grade.judge)]
            assert line == [*counts, figure(grade.precision), figure(grade.recall)]
        for line, point in zip(page.tables[f"Calibration, {name}"][1:], curves[card.judge], strict=True):
            assert line[1] == (f"{point.observed:.2f}", interval(point.low, point.high)) and line[2] == (str(point.n),)
        two = card.people.pairs[0]
        figures = map(figure, (two.kappa, two.kappa_binary, two.kappa_quadratic, two.mae))
        line = page.tables[f"Agreement between people, beside {name}"][1]
        assert line == [("ann, ben",), *figures, (str(two.kappa.n),)]
        assert f"a note on {card.judge}" in page.texts


def test_circular_is_marked_wherever_the_judge_is_named(page):
    assert "Circular: a judge is evaluated on data that it had a part in" in page.labels
    labelled = [text for text in [*page.texts, *page.labels] if "middling" in text and text != "a note on middling"]
    assert len(labelled) > 8
    for text in labelled:
        assert text.count("middling") == text.count("middling (circular)"), text


def test_more_than_five_judges_are_collapsed(cards, tmp_path):
    many = [replace(cards[0], judge=f"judge {number}") for number in range(6)]
    folded = Page(write_judge_card(tmp_path / "six.html", "t", many, {}))
    folded.check_whole()
    assert len(folded.summaries) == 6 and folded.sections() == ["Judges", "Judge by judge"]
    assert Page(write_judge_card(tmp_path / "five.html", "t", many[:5], {})).summaries == []


def test_a_single_judge_without_optional_sections(tmp_path):
    card = judge_card(HUMAN, JUDGES["good"], name="good", **OPTIONS)
    page = Page(write_judge_card(tmp_path / "one.html", "t", [card], {}))
    page.check_whole()
    assert {text for tag, text in page.headings if tag == "h4"} == {
        "Agreement with people", "Confusion",
    }  # fmt: skip
    kappa = card.figures["kappa"]
    reported = f"good agrees with people at kappa {kappa.value:.3f} ({kappa.low:.3f} to {kappa.high:.3f})"
    assert f"{reported} over 144 pairs of 12 queries." in page.texts
