"""The overview page of all tasks: figures of each task, and sizes."""

from __future__ import annotations

from searchlora.eval.comparison import compare
from searchlora.eval.evaluation import Evaluation
from searchlora.eval.report import Chapter, Stored, write_overview


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
    stored = [Stored("llm", 1000, {"a@1": 20, "b@2": 30}), Stored("encoder", 400, {"c@1": 5})]
    page = write_overview(tmp_path / "report.html", "All", chapters, stored, {"Date": "today"}).read_text("utf-8")
    for chapter in chapters:
        row = chapter.comparison.row("ours", chapter.comparison.measures[0])
        assert f"ours reaches {row.measure} {row.value:.3f}" in page
        assert f'href="{chapter.details}"' in page
    assert page.count('id="task-1"') == page.count('id="task-2"') == page.count('id="footprint"') == 1
    assert ">1,455<" in page  # 1000 + 20 + 30 + 400 + 5
    assert ">2,400<" in page  # 2 × 1000 + 400
    assert "60.6%" in page


def test_reported_sizes_add_up():
    stored = Stored("llm", 1000, {"a@1": 20, "b@2": 30})
    assert (stored.total_bytes, stored.full_model_bytes) == (1050, 2000)
