"""Interleaving by simulated users: false decisions under continuous watching, and impressions until a decision.

    python -m benchmarks.statistics.interleaving

README.md in this folder describes the figures. Some minutes on two cores.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import betaln

from benchmarks.common import RESULTS, parser, real_data, save_figures
from benchmarks.statistics.interleaving.clicks import MODELS, Clicks, Floats, Model
from benchmarks.statistics.interleaving.collections import Collection, collections
from searchlora.eval.formatting import markdown_table
from searchlora.eval.intervals import proportion
from searchlora.eval.measures import retrieval_values
from searchlora.events.interleaving import METHODS, interleave

NAME = "interleaving"

#: Two systems, and differences of nDCG@10 that a change from the worse one to the better one may make.
SYSTEMS = ("BM25, titles", "BM25, stemmed")
DIFFERENCES = (0.005, 0.01, 0.02, 0.05)

#: Hits that users see, interleavings of each query, impressions whose outcomes are drawn, and sequences of them.
DEPTH, POOL, IMPRESSIONS, SEQUENCES = 10, 40, 300_000, 1000

#: Random parts of the queries from which that of a change is chosen.
_PARTS = 1000

#: Impressions at which a test is given up, and the looks before it: all of the first hundred, then every percent.
MOST = 1_000_000
LOOKS = np.unique(np.concatenate([np.arange(1, 100), np.geomspace(100, MOST, 926)]).astype(int))

#: Error of a decision at all looks together.
ALPHA = 0.05


@dataclass(frozen=True)
class Rankings:
    """What users may see of a system, or of two interleaved ones.

    Attributes:
        relevance: (queries, rankings of each, ranks), from 0 to 1; 0 after the end.
        credits: Likewise; 0 for one system.
    """

    relevance: Floats
    credits: Floats


def main() -> None:
    arguments = parser(f"statistics.{NAME}")
    arguments.add_argument("--impressions", type=int, default=IMPRESSIONS, help="fewer for a trial")
    impressions = arguments.parse_args().impressions
    rows = []
    for collection in collections(real_data()):
        if SYSTEMS[0] in collection.runs:
            for row in _rows(collection, impressions):
                print(f"{_cell(row)}  {row['system']}; {row['measure']}")
                rows.append(row)
    if impressions == IMPRESSIONS:
        save_figures(NAME, rows, [], {"table": table(rows)}, module=f"statistics.{NAME}")
        plot(rows, RESULTS / f"{NAME}.svg")


def plot(rows: Sequence[Mapping[str, Any]], target: Path) -> None:
    """Impressions until a decision by the difference: medians of each collection and click model, one line a way."""
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    matplotlib.rcParams["svg.hashsalt"] = NAME
    names = list(dict.fromkeys(row["system"].split(",")[0] for row in rows))
    figure = Figure(figsize=(8, 3.4), layout="constrained")
    panels = figure.subplots(1, len(names), sharey=True)
    colours = dict(zip([*METHODS, "A/B test"], ("tab:blue", "tab:orange", "tab:gray"), strict=True))
    for panel, name in zip(panels, names, strict=True):
        for model in MODELS:
            for way, colour in colours.items():
                found = [
                    (float(row["system"].split(", ")[1]), row["value"])
                    for row in rows
                    if row["system"].startswith(f"{name}, +")
                    and row["system"].endswith(f", {model}")
                    and row["measure"] == f"impressions, {way}"
                ]
                label = way.replace("_", "-") if model == next(iter(MODELS)) else None
                panel.plot(*zip(*found, strict=True), color=colour, marker="o", markersize=3, linewidth=1, label=label)
        panel.set(xscale="log", yscale="log", title=name, xlabel="difference of nDCG@10")
        panel.set_xticks(DIFFERENCES, [f"{difference:g}" for difference in DIFFERENCES], minor=False)
        panel.minorticks_off()
    panels[0].set_ylabel("searches until a decision")
    panels[0].legend(frameon=False)
    FigureCanvasSVG(figure).print_svg(str(target), metadata={"Date": None})


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """The tables of the README."""
    parts = []
    for kind in ("false decisions", "impressions"):
        found = [row for row in rows if row["measure"].startswith(kind)]
        measures = list(dict.fromkeys(row["measure"] for row in found))
        systems = list(dict.fromkeys(row["system"] for row in found))
        cells = {(row["system"], row["measure"]): _cell(row) for row in found}
        head = [measure.removeprefix(f"{kind}, ") for measure in measures]
        lines = [[system, *(cells.get((system, measure), "–") for measure in measures)] for system in systems]
        parts.append(f"{kind.capitalize()}:\n\n{markdown_table(['', *head], lines, words=3)}")
    return "\n\n".join(parts)


def _cell(row: Mapping[str, Any]) -> str:
    if row["measure"].startswith("false"):
        return f"{row['value']:.3f} ({row['low']:.3f} to {row['high']:.3f})"
    if row["decided"] < 0.5:
        return f"{row['decided']:.0%} decide by {MOST:,}"
    return f"{row['value']:,.0f} ({row['low']:,.0f} to {row['high']:,.0f})"


def _rows(collection: Collection, impressions: int) -> Iterator[dict[str, Any]]:
    rng, own = np.random.default_rng(1), random.Random(1)
    worse, better = (collection.runs[name] for name in SYSTEMS)
    queries = list(collection.qrels)
    values = [retrieval_values(run, collection.qrels, ["nDCG@10"])["nDCG@10"] for run in (worse, better)]
    gains = {query: values[1].get(query, 0.0) - values[0].get(query, 0.0) for query in queries}
    if sum(gains.values()) < 0:
        worse, better, gains = better, worse, {query: -gain for query, gain in gains.items()}
    for difference in (0.0, *DIFFERENCES):
        if difference > sum(gains.values()) / len(queries):
            continue
        changed = _changed(gains, difference, own) if difference else set(queries)
        pairs = []
        for query in queries:
            one, other = [*worse[query]], [*better[query]] if query in changed else [*worse[query]]
            pairs.append((query, one, other))
        actual = sum(gains[query] for query in changed) / len(queries) if difference else 0.0
        name = f"{collection.name}, {actual:+.3f}" if difference else collection.name
        for method in METHODS:
            shown = _interleaved(collection, pairs, method, own)
            for model_name, model in MODELS.items():
                outcomes = _outcomes(shown, model, impressions, rng)
                if not difference:
                    outcomes = outcomes * rng.choice([-1, 1], len(outcomes))
                    yield _false(f"{name}, {model_name}", f"false decisions, {method}", outcomes, rng)
                else:
                    yield _needed(f"{name}, {model_name}", f"impressions, {method}", _decided(outcomes, rng))
        for model_name, model in MODELS.items():
            arms = [_successes(collection, pairs, side, model, impressions, rng) for side in (1, 2)]
            if difference:
                yield _needed(f"{name}, {model_name}", "impressions, A/B test", _decided_by_halves(*arms, rng))


def _changed(gains: Mapping[str, float], difference: float, own: random.Random) -> set[str]:
    """The queries that a change concerns: of random parts of fitting size, the one whose mean gain is nearest."""
    share = difference * len(gains) / sum(gains.values())
    drawn = [{query for query in gains if own.random() < share} for _ in range(_PARTS)]
    return min(drawn, key=lambda part: abs(sum(gains[query] for query in part) / len(gains) - difference))


def _interleaved(
    collection: Collection, pairs: Sequence[tuple[str, list[str], list[str]]], method: Any, own: random.Random
) -> Rankings:
    relevance, credits = np.zeros((2, len(pairs), POOL, DEPTH))
    for at, (query, one, other) in enumerate(pairs):
        for draw in range(POOL):
            found = interleave(one, other, DEPTH, method, own)
            relevance[at, draw, : len(found.documents)] = _relevance(collection, query, found.documents)
            credits[at, draw, : len(found.documents)] = found.credits
    return Rankings(relevance, credits)


def _relevance(collection: Collection, query: str, documents: Sequence[str]) -> list[float]:
    grades = collection.qrels[query]
    return [max(0, grades.get(document, 0)) / collection.highest for document in documents]


def _outcomes(shown: Rankings, model: Model, impressions: int, rng: np.random.Generator) -> Floats:
    """The sign of the credits of each impression's clicks."""
    places = rng.integers(len(shown.relevance), size=impressions), rng.integers(POOL, size=impressions)
    clicks: Clicks = model(shown.relevance[places], rng)
    return np.sign(np.round((clicks * shown.credits[places]).sum(axis=1), 9))


def _successes(
    collection: Collection,
    pairs: Sequence[tuple[str, list[str], list[str]]],
    side: int,
    model: Model,
    impressions: int,
    rng: np.random.Generator,
) -> float:
    """The share of the impressions of one system in which something is clicked."""
    relevance = np.zeros((len(pairs), DEPTH))
    for at, pair in enumerate(pairs):
        documents = [*pair[side]][:DEPTH]
        relevance[at, : len(documents)] = _relevance(collection, pair[0], documents)
    clicks = model(relevance[rng.integers(len(pairs), size=4 * impressions)], rng)
    return float(clicks.any(axis=1).mean())


def _decided(outcomes: Floats, rng: np.random.Generator) -> Floats:
    """Impressions at the first look at which B is called better, in each sequence; infinite where none is.

    The sequence of wins is all that the test reads. Wins between two looks are drawn from their share.
    """
    shares = [float(np.mean(outcomes == sign)) for sign in (1, -1)]
    wins, losses = _drawn(shares, rng)
    excluded = _excludes_half(wins, losses)
    return _first(excluded & (wins > losses))


def _drawn(shares: Sequence[float], rng: np.random.Generator) -> tuple[Floats, Floats]:
    """Wins and losses at each look of each sequence, (sequences, looks)."""
    steps = np.diff(LOOKS, prepend=0)
    drawn = rng.multinomial(steps, [*shares, 1 - sum(shares)], size=(SEQUENCES, len(steps)))
    sums = np.cumsum(drawn, axis=1).astype(float)
    return sums[..., 0], sums[..., 1]


def _excludes_half(wins: Floats, losses: Floats) -> Clicks:
    """Whether the confidence sequence of B's share of wins excludes 1/2; `mean_bounds` for many at once."""
    n = wins + losses
    mixture = betaln(0.5 + wins, 0.5 + losses) - betaln(0.5, 0.5) + n * math.log(2)
    return mixture > -math.log(ALPHA)


def _decided_by_halves(one: float, other: float, rng: np.random.Generator) -> Floats:
    """The same for users in two halves and the share of searches with a click.

    The interval is an asymptotic confidence sequence of the difference (Waudby-Smith et al. 2024), which is narrower
    than an exact one, so that the A/B test has the advantage.
    """
    steps = np.diff(np.maximum(LOOKS // 2, 1), prepend=0)
    clicked = [np.cumsum(rng.binomial(steps, share, size=(SEQUENCES, len(steps))), axis=1) for share in (one, other)]
    n = np.cumsum(steps)
    means = [each / n for each in clicked]
    variance = sum(mean * (1 - mean) for mean in means) / n
    ratio = 0.1 * n / 10_000  # narrowest where differences of .01 are decided
    width = np.sqrt(variance * (1 + ratio) / ratio * np.log((1 + ratio) / ALPHA**2))
    return _first((means[1] - means[0] > width) & (n >= 100))


def _first(decided: Clicks) -> Floats:
    return np.where(decided.any(axis=1), LOOKS[np.argmax(decided, axis=1)], np.inf)


def _false(system: str, measure: str, outcomes: Floats, rng: np.random.Generator) -> dict[str, Any]:
    shares = [float(np.mean(outcomes == sign)) for sign in (1, -1)]
    middle = [sum(shares) / 2] * 2  # the labels were exchanged by chance: neither is better
    excluded = _excludes_half(*_drawn(middle, rng)).any(axis=1).astype(float)
    value, low, high = proportion(excluded, np.ones(SEQUENCES))
    return {"system": system, "measure": measure, "value": value, "low": low, "high": high, "n": SEQUENCES}


def _needed(system: str, measure: str, impressions: Floats) -> dict[str, Any]:
    low, value, high = np.minimum(np.quantile(impressions, [0.25, 0.5, 0.75], method="nearest"), MOST).tolist()
    decided = float(np.mean(np.isfinite(impressions)))
    row = {"system": system, "measure": measure, "value": value, "low": low, "high": high}
    return row | {"n": SEQUENCES, "decided": decided}


if __name__ == "__main__":
    main()
