"""Data-flow diagrams of the documentation, drawn as SVG: `python docs/diagrams.py` writes `docs/images/*.svg`."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from pathlib import Path

FOLDER = Path(__file__).parent / "images"
WIDTH, HEIGHT = 204, 62  # of a box
COLUMN, ROW = 250, 104  # distance between the corners of neighbouring boxes
MARGIN = 16

STYLE = """
  text { font: 14px system-ui, sans-serif; fill: #1b2733; text-anchor: middle }
  .note { font-size: 11.5px; fill: #51606e }
  .box { fill: #f4f7fb; stroke: #5b7c99; stroke-width: 1.3 }
  .store { fill: #fdf3e1; stroke: #b98a35 }
  .check { fill: #e9f6ec; stroke: #4d9160 }
  .edge { fill: none; stroke: #5b6c7c; stroke-width: 1.4; marker-end: url(#head) }
  .ground { fill: #ffffff }
"""


@dataclass(frozen=True)
class Box:
    """A step or a thing, at a place in the grid; `kind` is box, store (kept on disk) or check."""

    column: float
    row: float
    title: str
    note: str = ""
    kind: str = "box"

    @property
    def centre(self) -> tuple[float, float]:
        return MARGIN + self.column * COLUMN + WIDTH / 2, MARGIN + self.row * ROW + HEIGHT / 2


@dataclass(frozen=True)
class Diagram:
    """Boxes by name, and arrows between them with an optional label."""

    title: str
    boxes: dict[str, Box]
    arrows: tuple[tuple[str, str, str], ...]

    def svg(self) -> str:
        """The diagram as a self-contained SVG document."""
        width = MARGIN * 2 + WIDTH + max(box.column for box in self.boxes.values()) * COLUMN
        height = MARGIN * 2 + HEIGHT + max(box.row for box in self.boxes.values()) * ROW
        parts = [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" role="img">',
            f"<title>{escape(self.title)}</title>",
            f"<style>{STYLE}</style>",
            '<defs><marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7"'
            ' orient="auto">'
            '<path d="M0 0 8 4 0 8z" fill="#5b6c7c"/></marker></defs>',
            f'<rect class="ground" width="{width:g}" height="{height:g}" rx="8"/>',
            *(self._arrow(*arrow) for arrow in self.arrows),
            *(_box(box) for box in self.boxes.values()),
            "</svg>",
        ]
        return "\n".join(parts) + "\n"

    def _arrow(self, start: str, end: str, label: str) -> str:
        """A straight arrow between neighbours, else one with a single corner; labels stand beside its middle."""
        (x1, y1), (x2, y2) = self.boxes[start].centre, self.boxes[end].centre
        if y1 == y2:
            side = 1 if x2 > x1 else -1
            a, b = (x1 + side * WIDTH / 2, y1), (x2 - side * (WIDTH / 2 + 2), y2)
            path, at = [a, b], ((a[0] + b[0]) / 2, y1 - 7)
        elif x1 == x2:
            side = 1 if y2 > y1 else -1
            a, b = (x1, y1 + side * HEIGHT / 2), (x2, y2 - side * (HEIGHT / 2 + 2))
            path, at = [a, b], (x1 + 6, (a[1] + b[1]) / 2 + 4)
        else:
            side = 1 if x2 > x1 else -1
            down = 1 if y2 > y1 else -1
            corner = (x2, y1)
            path = [(x1 + side * WIDTH / 2, y1), corner, (x2, y2 - down * (HEIGHT / 2 + 2))]
            at = (x2 + 6, (y1 + y2) / 2 + 4)
        points = " ".join(f"{x:g},{y:g}" for x, y in path)
        anchor = "middle" if y1 == y2 else "start"
        text = (
            f'<text class="note" x="{at[0]:g}" y="{at[1]:g}" style="text-anchor:{anchor}">{escape(label)}</text>'
            if label
            else ""
        )
        return f'<polyline class="edge" points="{points}"/>{text}'


def _box(box: Box) -> str:
    x, y = box.centre
    title_y = y + 5 if not box.note else y - 4
    note = f'<text class="note" x="{x:g}" y="{y + 15:g}">{escape(box.note)}</text>' if box.note else ""
    return (
        f'<rect class="box {box.kind}" x="{x - WIDTH / 2:g}" y="{y - HEIGHT / 2:g}" width="{WIDTH}"'
        f' height="{HEIGHT}" rx="7"/>'
        f'<text x="{x:g}" y="{title_y:g}">{escape(box.title)}</text>{note}'
    )


DIAGRAMS = {
    "data-flow": Diagram(
        "From logs and judgments to an adapter in production",
        {
            "logs": Box(0, 0, "Your data", "queries, clicks, judgments"),
            "dataset": Box(1, 0, "Dataset", "validated, split, leak-checked", "store"),
            "train": Box(2, 0, "QLoRA training", "one adapter per task"),
            "store": Box(3, 0, "Adapter store", "name@version, immutable", "store"),
            "pipeline": Box(3, 1, "Pipeline stage", "loads rewriter@production"),
            "run": Box(2, 1, "TREC run", "what was retrieved", "store"),
            "measures": Box(1, 1, "Evaluation", "nDCG, kappa, F1 with intervals"),
            "policy": Box(0, 1, "Promotion policy", "moves the production alias", "check"),
        },
        (
            ("logs", "dataset", ""),
            ("dataset", "train", ""),
            ("train", "store", ""),
            ("store", "pipeline", "by name"),
            ("pipeline", "run", ""),
            ("run", "measures", ""),
            ("measures", "policy", ""),
        ),
    ),
    "training-run": Diagram(
        "A training run",
        {
            "file": Box(0, 0, "Source file", "CSV, JSONL, TREC, Parquet"),
            "reader": Box(1, 0, "Format reader", "one per public format"),
            "record": Box(2, 0, "Record", "validated by JSON Schema"),
            "split": Box(3, 0, "Split and leak check", "by group, never by row", "check"),
            "dataset": Box(3, 1, "Dataset folder", "fingerprint, card", "store"),
            "render": Box(2, 1, "Renderer", "record to token ids"),
            "trainer": Box(1, 1, "Trainer", "TRL or sentence-transformers"),
            "valid": Box(0, 1, "Validation", "loss, and answers measured"),
            "check": Box(1, 2, "Load check", "hashes, keys, golden logits", "check"),
            "store": Box(2, 2, "Adapter store", "name@version", "store"),
        },
        (
            ("file", "reader", ""),
            ("reader", "record", ""),
            ("record", "split", ""),
            ("split", "dataset", ""),
            ("dataset", "render", ""),
            ("render", "trainer", ""),
            ("trainer", "valid", ""),
            ("trainer", "check", "PEFT folder"),
            ("check", "store", ""),
        ),
    ),
    "query": Diagram(
        "A query in a pipeline",
        {
            "query": Box(0, 0, "Search", "query, conversation, hits"),
            "stage": Box(1, 0, "Stage", "adapter, retrieve, passages"),
            "request": Box(2, 0, "Request", "prompt, adapter name@version"),
            "engine": Box(3, 0, "Engine", "local batch or a server"),
            "completion": Box(3, 1, "Completion", "text or choice scores"),
            "parse": Box(2, 1, "Strict parse", "value or InvalidOutput", "check"),
            "update": Box(1, 1, "Search, updated", "query, intent, hits, answer"),
            "run": Box(0, 1, "TREC run", "pinned versions in its tag", "store"),
        },
        (
            ("query", "stage", ""),
            ("stage", "request", ""),
            ("request", "engine", ""),
            ("engine", "completion", ""),
            ("completion", "parse", ""),
            ("parse", "update", ""),
            ("update", "stage", "next stage"),
            ("update", "run", ""),
        ),
    ),
    "promotion": Diagram(
        "A promotion",
        {
            "candidate": Box(0, 0, "Candidate", "name@version", "store"),
            "incumbent": Box(0, 1, "Incumbent", "what the alias means now", "store"),
            "evaluate": Box(1, 0, "Evaluate", "same records, same judgments"),
            "outputs": Box(1, 1, "Baselines, base model", "always beside the adapter"),
            "compare": Box(2, 0, "Paired comparison", "intervals, corrected p"),
            "policy": Box(2, 1, "Policy", "each rule held or broken", "check"),
            "alias": Box(3, 1, "Alias moves", "with history and rollback", "store"),
            "refusal": Box(2, 2, "Refusal", "kept in the same history", "store"),
        },
        (
            ("candidate", "evaluate", ""),
            ("incumbent", "outputs", ""),
            ("outputs", "evaluate", ""),
            ("evaluate", "compare", ""),
            ("compare", "policy", ""),
            ("policy", "alias", "held"),
            ("policy", "refusal", "a rule broken"),
        ),
    ),
}


def main() -> None:
    """Write every diagram."""
    FOLDER.mkdir(exist_ok=True)
    for name, diagram in DIAGRAMS.items():
        (FOLDER / f"{name}.svg").write_text(diagram.svg(), encoding="utf-8")


if __name__ == "__main__":
    main()
