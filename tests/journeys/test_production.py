"""The tutorial from one's own files to production, walked on the made shop and on a real one."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest

from searchlora.adapters.store import Store
from searchlora.eval.formats import read_run
from searchlora.models.resolve import BaseModel
from tests.child_scripts import COMMAND, run_script
from tests.docs.blocks import ROOT
from tests.journeys.shop_files import write_shop_files
from tests.journeys.walk import CLIENTS, PAGE, Walk, skip_without

#: The command line in a folder, in a forked process, which need not import torch.
FORKED = f"import os, sys; os.chdir(sys.argv.pop(1)); {COMMAND}"

FEW_STEPS = ["--set", "optim.max_steps=4", "--set", "validation.every_steps=4", "--set", "validation.generate_rows=4"]
FEW_STEPS += ["--set", "validation.rows=4", "--set", "optim.batch_size=4"]

#: A judge of a few steps, or of another shop, prefers other products.
OTHER_HITS = ("search",)


def check(walk: Walk) -> None:
    """What a reader has at the end of the page."""
    store = Store(walk.folder / "store")
    assert store.aliases("shop-judge") == store.aliases("shop-rewriter") == {"production": 1}
    for name in ("shop-judge", "shop-rewriter"):
        move = store.history(name)[-1]
        assert move.decision is not None and move.decision.outcome == "forced"
        assert any(rule.rule.startswith("beat ") and rule.rule != "beat incumbent" for rule in move.decision.rules)
        assert move.decision.evidence, name
    assert "reference rewrite" not in walk.output("adapters list")  # the expected output is no rival
    for report in ("judge-evaluation", "rewrite-evaluation", "experiment"):
        assert (walk.folder / report / "report.html").is_file(), report

    built = walk.output("data build judgment")
    assert "agreement of 3 raters: Krippendorff's alpha" in built
    card = json.loads((walk.folder / "card" / "judge_card.json").read_text(encoding="utf-8"))
    assert "kappa" in walk.output("judge-card") and card

    results = [json.loads(line) for line in (walk.folder / "results.jsonl").read_text(encoding="utf-8").splitlines()]
    reranked = read_run(walk.folder / "reranked.trec")
    assert {result["id"] for result in results} == set(reranked) != set()
    for result in results:
        assert result["stages"][-1] == "shop-judge@1"
        assert len(result["grades"]) == min(20, len(result["hits"]))
        first = [hit["document"] for hit in result["hits"]][:10]
        assert first == sorted(reranked[result["id"]], key=reranked[result["id"]].get, reverse=True)[:10]
    assert read_run(walk.folder / "bm25.trec") != reranked

    ranked = json.loads(walk.output("curl /rerank"))
    assert sorted(hit["index"] for hit in ranked["results"]) == [0, 1]
    assert all(0 <= hit["relevance_score"] <= 1 for hit in ranked["results"])
    rewritten = json.loads(walk.output("curl /rewrite"))
    assert "shop-rewriter@1" in json.dumps(rewritten)
    judged = json.loads(walk.output("curl /tasks/judgment"))
    assert "shop-judge@1" in json.dumps(judged) and "probabilities" in json.dumps(judged)
    version, _, answer = walk.output("python openai").strip().partition(" ")
    assert version == "shop-rewriter@1"
    for client in sorted(CLIENTS) if not walk.left_out else ():
        assert walk.output(f"python {client}").strip() == answer.strip(), client


@pytest.mark.slow
def test_the_page_on_the_made_shop(tiny_base: BaseModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the clients that have tests of their own in tests/server/clients."""
    monkeypatch.delenv("SEARCHLORA_CLIENTS_PYTHON", raising=False)
    write_shop_files(tmp_path)

    def forked(arguments: Sequence[str]) -> tuple[int, str]:
        ended = run_script(FORKED, tmp_path, *arguments)
        return ended.returncode, ended.stdout + ended.stderr

    base = ["--base", str(tiny_base.path)]
    train = [*base, *FEW_STEPS, "--set", "method=lora", "--set", "max_length=4000", "--set", "max_new_tokens=8"]
    added = {"train": train, "serve": base}
    walk = Walk(tmp_path, added=added, execute=forked, not_compared=OTHER_HITS)
    walk.page(PAGE)
    check(walk)


@pytest.mark.slow
@pytest.mark.journey
def test_the_page_on_a_real_shop(real_data: Path, tmp_path: Path) -> None:
    """The page with few training steps and few test queries: some minutes."""
    skip_without("chorus", real_data)
    for name in ("individual_ratings.csv", "rated.csv", "products.jsonl.gz"):
        (tmp_path / name).symlink_to(real_data / "chorus" / name)
    shutil.copy(ROOT / "examples" / "production" / "rewrites.csv", tmp_path)
    walk = Walk(
        tmp_path,
        added={"train": FEW_STEPS, "data build judgment": ["--split-ratios", "0.94,0.03,0.03"]},
        not_compared=OTHER_HITS,
    )
    walk.page(PAGE)
    check(walk)
