"""The overview page of all tasks: figures of each task."""

from __future__ import annotations

from searchlora.eval.comparison import compare
from searchlora.eval.evaluation import Evaluation
from searchlora.eval.report.comparison import Chapter, write_overview


def comparison(measure: str, ours: float):
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
        Chapter("rewriting", comparison("nDCG@10", 0.4), "evaluation/report.html"),
        Chapter("intent", comparison("accuracy", 0.3), "intent/evaluation/report.html"),
    ]
    page = write_overview(tmp_path / "report.html", "All", chapters, {"Date": "today"}).read_text("utf-8")
    for chapter in chapters:
        row = chapter.comparison.row("ours", chapter.comparison.measures[0])
        assert f"ours reaches {row.measure} {row.value:.3f}" in page
        assert f'href="{chapter.details}"' in page
    assert page.count('id="task-1"') == page.count('id="task-2"') == 1
