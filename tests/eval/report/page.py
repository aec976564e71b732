"""Parser of a written HTML page: tables, plots, links and headings, and valid nesting of its elements."""

from __future__ import annotations

import random
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

from searchlora.eval.comparison import Comparison, compare
from searchlora.eval.evaluation import Evaluation, evaluate_run

VOID = frozenset({"meta", "br", "hr", "img", "input", "link"})

#: Element -> its allowed parents.
PARENTS = {
    "tr": {"thead", "tbody"},
    "td": {"tr"},
    "th": {"tr"},
    "thead": {"table"},
    "tbody": {"table"},
    "li": {"ul", "ol"},
    "dt": {"dl"},
    "dd": {"dl"},
    "summary": {"details"},
    "figcaption": {"figure"},
}
HEADINGS = frozenset({"h1", "h2", "h3", "h4", "h5"})
#: Elements not allowed inside phrasing content.
BLOCKS = HEADINGS | {"p", "div", "table", "ul", "ol", "dl", "section", "figure", "details"}
PHRASES = HEADINGS | {"p", "small", "span", "b", "a", "figcaption", "title"}

Cell = tuple[str, ...]


class Page(HTMLParser):
    """Attributes:
    tables: The label of each table's box -> its rows, the head first; a cell is a tuple of its pieces of text.
    headings: Tag and text of every h1 to h5.
    texts: Every piece of text.
    labels: Every aria-label.
    plots: The text of each svg that has a label.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.source = path.read_text(encoding="utf-8")
        self.tables: dict[str, list[list[Cell]]] = {}
        self.headings: list[tuple[str, str]] = []
        self.summaries: list[str] = []
        self.texts: list[str] = []
        self.labels: list[str] = []
        self.plots: dict[str, list[str]] = {}
        self.ids: list[str] = []
        self.links: list[str] = []
        self.tags: set[str] = set()
        self._open: list[str] = []
        self._box = self._plot = ""
        self.feed(self.source)
        self.close()
        assert self._open == [], "elements that are not closed"

    def handle_starttag(self, tag, attrs):
        named = dict(attrs)
        parent = self._open[-1] if self._open else ""
        assert parent in PARENTS.get(tag, {parent}), f"{tag} in {parent}"
        if tag in BLOCKS:
            assert not PHRASES & set(self._open), f"{tag} in {self._open}"
        self.tags.add(tag)
        self.ids += [named["id"]] if "id" in named else []
        self.links += [named[name] for name in ("href", "src", "srcset") if named.get(name)]
        if "aria-label" in named:
            self.labels.append(named["aria-label"])
        if tag == "div" and named.get("role") == "region":
            assert named["aria-label"] not in self.tables, "two tables have one label"
            self._box = named["aria-label"]
            self.tables[self._box] = []
        elif tag == "svg" and "aria-label" in named:
            self._plot = named["aria-label"]
            assert self._plot not in self.plots, "two plots have one label"
            self.plots[self._plot] = []
        elif tag == "tr":
            self.tables[self._box].append([])
        elif tag in ("td", "th"):
            self.tables[self._box][-1].append(())
        elif tag in HEADINGS:
            self.headings.append((tag, ""))
        elif tag == "summary":
            self.summaries.append("")
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self._open.pop()

    def handle_endtag(self, tag):
        assert self._open.pop() == tag
        self._plot = "" if tag == "svg" else self._plot

    def handle_data(self, data):
        text = " ".join(data.split())
        if not text or "style" in self._open:
            return
        self.texts.append(text)
        if self._plot:
            self.plots[self._plot].append(text)
        elif {"td", "th"} & set(self._open):
            row = self.tables[self._box][-1]
            row[-1] = (*row[-1], text)
        elif self._open[-1] in HEADINGS:
            self.headings[-1] = (self.headings[-1][0], self.headings[-1][1] + text)
        elif "summary" in self._open:
            self.summaries[-1] += text

    def sections(self) -> list[str]:
        """The headings of the second level."""
        return [text for tag, text in self.headings if tag == "h2"]

    def check_whole(self) -> None:
        """Nothing is fetched, nothing runs, ids are unique, links lead somewhere."""
        assert not self.tags & {"script", "link", "img", "iframe", "object", "embed"}
        assert "http" not in self.source and "@import" not in self.source and not re.search(r"url\((?!#)", self.source)
        assert len(self.ids) == len(set(self.ids))
        assert {link.removeprefix("#") for link in self.links} <= set(self.ids)


# Synthetic evaluations that use every section of a report, generated from a seed

DOCUMENTS = [f"d{number}" for number in range(40)]


def topics(count: int = 40) -> dict[str, dict[str, object]]:
    kinds = ("short", "long", "odd")
    return {f"q{number}": {"query": f"query number {number}", "kind": kinds[number % 3]} for number in range(count)}


def qrels(count: int = 40) -> dict[str, dict[str, int]]:
    rng = random.Random(5)
    return {topic: {doc: rng.choice((0, 0, 1, 2)) for doc in rng.sample(DOCUMENTS, 20)} for topic in topics(count)}


def run(skill: float, seed: int, count: int = 40) -> dict[str, dict[str, float]]:
    rng = random.Random(seed)
    return {
        topic: {doc: skill * grades.get(doc, 0) + rng.gauss(0, 1) for doc in rng.sample(DOCUMENTS, 15)}
        for topic, grades in qrels(count).items()
    }


def evaluation(skill: float, seed: int, count: int = 40, **more: object) -> Evaluation:
    found = evaluate_run(
        run(skill, seed, count), qrels(count), measures=("nDCG@10", "MRR@10"), topics=topics(count), slices=("kind",),
        costs={"ms per query": 10.0 * seed, "new tokens per query": 3.0},
    )  # fmt: skip
    return replace(found, **more)


SYSTEMS = {"weak": (0.0, 1), "base": (0.4, 2), "strong": (1.5, 3)}


def comparison(candidate: str | None, baseline: str | None, **more: dict[str, object]) -> Comparison:
    """`weak`, `base` and `strong`; `more` changes the evaluation of a system."""
    systems = {name: evaluation(*made, **more.get(name, {})) for name, made in SYSTEMS.items()}
    return compare(systems, candidate=candidate, baseline=baseline, resamples=400)
