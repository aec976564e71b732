"""Promotion end to end on a tiny base: refusals cannot be bypassed, and every decision is recorded."""

from __future__ import annotations

import dataclasses
import functools
import shutil
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from searchlora.adapters.store import Store
from searchlora.data import building
from searchlora.data.dataset import load_dataset
from searchlora.errors import DataError, InvalidName, StoreError, UsageError
from searchlora.eval.judgments.card import JudgmentsCard, write_judgments
from searchlora.eval.policy import Policy
from searchlora.eval.trec import write_qrels
from searchlora.events.interleaving import INTERLEAVED
from searchlora.events.log import EventLog, Feedback
from searchlora.experiments.evaluate import evaluate
from searchlora.experiments.evaluation_result import EvaluationResult
from searchlora.experiments.options import DecisionOptions, EvaluationOptions, TrainingOptions
from searchlora.experiments.promote import PromotionResult, promote
from searchlora.experiments.train import train
from searchlora.outputs import Label
from tests.contract.foreign import build_distribution, write_records
from tests.events.recorded import search_event, written
from tests.factories import native_dataset, read_jsonl

pytestmark = pytest.mark.slow

NAME = "shop-colour"
TINY = ["optim.batch_size=32", "lora.r=16", "optim.learning_rate=3e-3", "validation.every_steps=1000"]
ALWAYS_RED, ALL_RIGHT, ALWAYS_GREEN = 1, 2, 3

build = functools.partial(building.build, judgments_source="human")


@dataclasses.dataclass(frozen=True)
class Shop:
    """A store with an adapter that answers red, one that is right, one that answers green; more rows are red."""

    root: Path
    data: Path
    store: Store

    def evaluate(self, version: int) -> EvaluationResult:
        options = EvaluationOptions(cache_dir=self.root / "outputs")
        return evaluate(f"{NAME}@{version}", self.data, options, store=self.store)

    def promote(
        self, version: int, policy: Policy | None = None, data: Path | None = None, **options: Any
    ) -> PromotionResult:
        accepted = {key: options.pop(key) for key in ("force", "reason", "accept_changes", "events") if key in options}
        return promote(
            f"{NAME}@{version}",
            "production",
            policy or Policy(),
            data or self.data,
            decision=DecisionOptions(**accepted),
            evaluation=EvaluationOptions(cache_dir=self.root / "outputs", **options),
            store=self.store,
        )


@pytest.fixture(scope="module")
def trained(tmp_path_factory, tiny_base):
    root = tmp_path_factory.mktemp("promotion")
    patch = pytest.MonkeyPatch()
    patch.syspath_prepend(build_distribution(root / "site", closed=False))
    patch.setenv("SEARCHLORA_CACHE", str(root / "cache"))
    source = write_records(root / "rows.jsonl", groups=300)
    build("colour", source, format="native", out=root / "data", split_ratios=(0.5, 0.1, 0.4))
    store = Store(root / "store")
    for colour, steps in (("red", 20), ("", 300), ("green", 60)):
        data = root / "data"
        if colour:
            rows = [record for record in read_jsonl(data / "train.jsonl") if record["colour"] == colour]
            data = native_dataset("colour", root / f"data-{colour}", rows, judgments_source="human")
        overrides = [*TINY, f"optim.max_steps={steps}"]
        train("colour", data, NAME, TrainingOptions(base=str(tiny_base.path), overrides=overrides), store=store)
    yield Shop(root, root / "data", store)
    patch.undo()
    sys.modules.pop("colour", None)


@pytest.fixture
def shop(trained):
    """Each test decides anew: the aliases are taken away before it."""
    (trained.store.root / NAME / "aliases.json").unlink(missing_ok=True)
    return trained


def broken(found: PromotionResult) -> set[str]:
    return {result.rule for result in found.results if not result.passed}


def rule_of(found: PromotionResult, name: str) -> Any:
    return next(result for result in found.results if result.rule == name)


def test_a_better_candidate_is_promoted_with_its_evidence(shop):
    shop.store.alias(NAME, "production", ALWAYS_RED)
    found = shop.promote(ALL_RIGHT, Policy(beat={"base": {}, "incumbent": {"margin": 0.2}}, slices={"colour": {}}))
    assert broken(found) == set()
    assert shop.store.pin(f"{NAME}@production") == f"{NAME}@{ALL_RIGHT}"
    decision = Store(shop.store.root).history(NAME)[-1].decision
    assert decision.outcome == "promoted"
    assert {rule.rule for rule in decision.rules} >= {"beat base", "beat incumbent", "unchanged data", "held out"}
    evidence, rows = decision.evidence, len(read_jsonl(shop.data / "test.jsonl"))
    assert (evidence["split"], evidence["n"], evidence["judgments"]) == ("test", rows, "human")
    assert {row["system"] for row in evidence["rows"]} == {"always red", "base zero-shot", f"{NAME}@1", f"{NAME}@2"}
    assert evidence["costs"][f"{NAME}@2"]["ms per query"] > 0
    assert evidence["costs"][f"{NAME}@2"]["prompt tokens per query"] > 1


def test_a_policy_may_ask_what_users_prefer(shop, tmp_path):
    policy = Policy(interleaving="preferred")
    with pytest.raises(UsageError, match="asks what users prefer"):
        shop.promote(ALL_RIGHT, policy)
    log = EventLog(tmp_path)
    for number in range(30):
        shown = {"other": "new", "method": "team_draft", "credits": [-1.0, 1.0, 1.0]}
        shown |= {"adapters": [[f"{NAME}@{ALWAYS_RED}"], [f"{NAME}@{ALL_RIGHT}"]]}
        (search,) = written(log, search_event(session=f"s{number}", **{INTERLEAVED: shown}))
        log.write([], [Feedback(search, "click", "P2")])
    found = shop.promote(ALL_RIGHT, policy, events=str(tmp_path))
    rule = rule_of(found, "interleaving")
    assert rule.passed and "of 30 users" in rule.finding
    lost = shop.promote(ALWAYS_RED, policy, events=str(tmp_path))
    assert "interleaving" in broken(lost)


def test_a_worse_candidate_is_refused_and_the_refusal_is_recorded(shop):
    shop.store.alias(NAME, "production", ALL_RIGHT)
    found = shop.promote(ALWAYS_RED)
    assert broken(found) == {"beat incumbent"}
    assert rule_of(found, "beat incumbent").short_by > 0.3
    assert shop.store.aliases(NAME) == {"production": ALL_RIGHT}
    assert f"refused to version {ALWAYS_RED}: beat incumbent" in str(shop.store.history(NAME)[-1])


@pytest.fixture
def plugin(shop):
    assert shop.store.list()  # the plugin is loaded
    return type(sys.modules["colour"].task)


@pytest.fixture
def dictionary(plugin, monkeypatch):
    """The task's baseline is a dictionary that is always right."""

    def baselines(_, records, __):
        return {"dictionary": [Label(record["colour"]) for record in records]}

    monkeypatch.setattr(plugin, "baselines", baselines)


@pytest.mark.usefixtures("dictionary")
def test_a_significant_loss_to_a_baseline_is_reported_everywhere(shop, cli):
    found = shop.evaluate(ALWAYS_GREEN)
    assert found.baselines == ("dictionary",)
    (loss,) = found.losses
    assert loss.startswith(f"{NAME}@{ALWAYS_GREEN} loses to the baseline dictionary: accuracy -0.")
    assert found.comparison.notes[0] == f"{loss}."
    entries = {entry.version: entry for entry in shop.store.list()}
    assert entries[ALWAYS_GREEN].evaluation.loses_to == ("dictionary",)
    assert shop.evaluate(ALL_RIGHT).losses == ()
    out = shop.root / "evaluated"
    called = cli("evaluate", f"{NAME}@{ALWAYS_GREEN}", "--data", shop.data, "--out", out, "--store", shop.store.root)
    assert f"warning: {loss}" in called.err
    assert "loses to the baseline dictionary" in (out / "report.html").read_text()
    listed = cli("adapters", "list", "--store", shop.store.root).out
    assert "LOSES" in listed and "dictionary" in listed


@pytest.mark.usefixtures("dictionary")
def test_a_policy_can_demand_that_rules_are_beaten(shop):
    policy = Policy.model_validate({"beat": {"base": {}, "baselines": "all"}})
    assert broken(shop.promote(ALL_RIGHT, policy)) == {"beat dictionary"}  # as good, and not better
    alone = Policy.model_validate({"beat": {"baselines": "all"}})
    rules = {result.rule for result in shop.promote(ALL_RIGHT, alone).results}
    assert {rule for rule in rules if rule.startswith("beat")} == {"beat dictionary"}  # the base is no baseline
    found = shop.promote(ALWAYS_GREEN, Policy.model_validate({"beat": {"baselines": ["dictionary"]}}))
    assert broken(found) >= {"beat dictionary"}
    evidence = shop.store.history(NAME)[-1].decision.evidence
    assert evidence["losses"] == list(found.evaluated.losses) != []
    assert "dictionary" in {row["system"] for row in evidence["rows"]}


@pytest.fixture
def learned(plugin, monkeypatch):
    """The task's baseline is the most frequent colour of the training rows: red."""

    def baselines(_, records, dataset):
        counts = Counter(row["colour"] for row in read_jsonl(dataset / "train.jsonl"))
        return {"commonest": [Label(counts.most_common(1)[0][0])] * len(records)} if counts else {}

    monkeypatch.setattr(plugin, "baselines", baselines)
    monkeypatch.setattr(plugin, "learned_baselines", lambda *_: frozenset({"commonest"}))


@pytest.mark.usefixtures("learned")
def test_a_baseline_that_learned_from_too_few_rows_is_not_beaten(shop, tmp_path, cli):
    rows = [{**row, "id": f"o{row['id']}", "group": f"o{row['group']}", "query": f"now {row['query']}"}
            for row in read_jsonl(shop.data / "train.jsonl")]  # fmt: skip
    for name, count in (("few", 14), ("many", len(rows))):
        native_dataset("colour", tmp_path / name, rows[:count], split_ratios=(1, 0, 0), judgments_source="human")
    (tmp_path / "policy.yaml").write_text("beat: {baselines: all}\n", encoding="utf-8")
    arguments = ["--to", "production", "--policy", tmp_path / "policy.yaml", "--data", shop.data]
    arguments += ["--store", shop.store.root, "--out", shop.root]
    refused = cli("promote", f"{NAME}@{ALL_RIGHT}", *arguments, "--baseline-data", tmp_path / "few")
    assert refused.code == 1
    assert "learned from 14 rows in 14 groups" in refused.err
    rule = next(rule for rule in shop.store.history(NAME)[-1].decision.rules if rule.rule == "beat commonest")
    assert not rule.passed and rule.finding.startswith("accuracy +0.")
    assert "14 rows in 14 groups, at least 100 rows in 50 groups" in rule.finding and "--baseline-data" in rule.finding
    assert "learned from 14 rows" in (shop.root / "report.html").read_text()
    # Data with more rows is other data, which must be accepted like that of the evaluated rows.
    many = ("--baseline-data", tmp_path / "many")
    assert cli("promote", f"{NAME}@2", *arguments, *many).code == 1
    assert cli("promote", f"{NAME}@{ALL_RIGHT}", *arguments, *many, "--accept-changes").code == 0
    evidence = shop.store.history(NAME)[-1].decision.evidence
    assert evidence["baseline data"] == load_dataset(tmp_path / "many").fingerprint
    named = Policy.model_validate({"beat": {"commonest": {}}})
    (shop.store.root / NAME / "aliases.json").unlink()
    assert "beat commonest" in broken(shop.promote(ALL_RIGHT, named, baseline_data=tmp_path / "few"))


@pytest.mark.usefixtures("learned")
def test_a_baseline_that_nothing_could_teach_is_not_beaten(shop, tmp_path):
    rows = [{key: row[key] for key in row if key != "split"} for row in read_jsonl(shop.data / "test.jsonl")]
    native_dataset("colour", tmp_path / "data", rows, split_ratios=(0, 0, 1), judgments_source="human")
    for policy in ({"baselines": "all"}, {"baselines": ["commonest"]}, {"commonest": {}}):
        found = shop.promote(ALL_RIGHT, Policy.model_validate({"beat": policy}), data=tmp_path / "data", reason="x")
        assert rule_of(found, "beat commonest").finding.startswith("not compared with commonest")


def test_force_needs_a_reason_and_stays_in_the_history(shop, cli):
    shop.store.alias(NAME, "production", ALL_RIGHT)
    with pytest.raises(UsageError, match="--force needs a reason"):
        shop.promote(1, force="  ")
    found = shop.promote(ALWAYS_RED, force="agreed with the search team", reason="see note 7")
    assert (found.refused, found.move.reason) == (False, "agreed with the search team; see note 7")
    assert shop.store.aliases(NAME) == {"production": ALWAYS_RED}
    assert not shop.promote(ALL_RIGHT).refused
    reported = cli("adapters", "show", NAME, "--store", shop.store.root).out
    assert "BY FORCE against: " in reported
    assert "agreed with the search team" in reported


def test_changed_data_does_not_bypass_a_refusal(shop, tmp_path):
    """Refused on one dataset, tried on another: the change is reported although the alias has not moved."""
    build("colour", write_records(tmp_path / "rows.jsonl", groups=290), format="native", out=tmp_path / "other",
          split_ratios=(0.5, 0.1, 0.4))  # fmt: skip
    strict = Policy(min_rows=10_000)
    assert broken(shop.promote(2, strict)) == {"enough data"}
    for _ in range(2):
        assert "unchanged data" in broken(shop.promote(2, data=tmp_path / "other"))
    accepted = shop.promote(2, strict, data=tmp_path / "other", accept_changes=True)
    assert "unchanged data" not in broken(accepted)
    rule = next(rule for rule in accepted.move.decision.rules if rule.rule == "unchanged data")
    assert rule.finding.startswith("accepted: version 2 was decided on split test")
    assert "unchanged data" in broken(shop.promote(2))


def test_an_alias_moved_during_the_measurement_is_an_error(shop, monkeypatch):
    shop.store.alias(NAME, "production", ALWAYS_RED)

    def meanwhile(*arguments: object, **options: object) -> EvaluationResult:
        found = evaluate(*arguments, **options)
        shop.store.alias(NAME, "production", ALL_RIGHT)
        return found

    monkeypatch.setattr("searchlora.experiments.promote.evaluate", meanwhile)
    with pytest.raises(StoreError, match="it pointed to version 1, now to version 2"):
        shop.promote(ALWAYS_GREEN)
    assert shop.store.aliases(NAME) == {"production": ALL_RIGHT}


def test_a_policy_changed_after_a_refusal_needs_a_reason(shop, cli, tmp_path):
    assert shop.promote(ALL_RIGHT, Policy(min_rows=10_000)).refused
    for _ in range(2):  # the refusal of the changed policy is not the decision that the next one is compared with
        assert broken(shop.promote(ALL_RIGHT, Policy(min_rows=10))) == {"the policy of the last decision"}
    assert shop.store.aliases(NAME) == {}
    with pytest.raises(UsageError, match="--reason needs a reason"):
        shop.promote(ALL_RIGHT, Policy(min_rows=10), reason=" ")
    (tmp_path / "policy.yaml").write_text("min_rows: 10\n", encoding="utf-8")
    arguments = ["--to", "production", "--policy", tmp_path / "policy.yaml", "--data", shop.data]
    arguments += ["--store", shop.store.root, "--out", shop.root]
    refused = cli("promote", f"{NAME}@{ALL_RIGHT}", *arguments)
    assert refused.code == 1 and "min_rows was 10000, is 10" in " ".join(refused.out.split())
    explained = cli("promote", f"{NAME}@{ALL_RIGHT}", *arguments, "--reason", "the shop is small")
    assert explained.code == 0
    move = Store(shop.store.root).history(NAME)[-1]
    finding = next(rule.finding for rule in move.decision.rules if rule.rule == "the policy of the last decision")
    assert finding == "changed: min_rows was 10000, is 10; the reason given: the shop is small"
    assert str(move).endswith("by its policy: the shop is small")
    assert not shop.promote(ALWAYS_RED, Policy(beat={}, min_rows=10), reason="a trial").refused
    assert not shop.promote(ALWAYS_GREEN, Policy(beat={}, min_rows=10)).refused  # the same policy again


def test_removing_the_incumbent_does_not_bypass_the_policy(shop, tmp_path):
    store = Store(shutil.copytree(shop.store.root, tmp_path / "store"))
    store.alias(NAME, "production", ALL_RIGHT)
    store.remove(f"{NAME}@{ALL_RIGHT}", force=True)
    gone = dataclasses.replace(shop, store=store)
    for _ in range(2):
        found = gone.promote(ALWAYS_RED)
        assert broken(found) == {"beat incumbent"}
        assert rule_of(found, "beat incumbent").finding.startswith("version 2, which 'production' pointed to")
    assert not gone.promote(ALWAYS_RED, force="version 2 broke a law").refused


def test_training_and_validation_splits_are_refused(shop):
    for split in ("train", "validation"):
        assert "held out" in broken(shop.promote(ALL_RIGHT, split=split))
    with pytest.raises(InvalidName):
        promote(f"{NAME}@{ALL_RIGHT}", "Production!", Policy(), shop.data, store=shop.store)


def test_unknown_training_queries_are_refused_unless_the_policy_allows_them(shop, tmp_path):
    """A copy that came without the hashes of its queries, and without its parent, in data of its own."""
    stored = shop.store.get(f"{NAME}@{ALL_RIGHT}")
    plain = shutil.ignore_patterns("training_queries.txt")
    shutil.copytree(stored.path, tmp_path / "copy", ignore=plain, copy_function=shutil.copyfile)
    store = Store(tmp_path / "store")
    store.adopt(tmp_path / "copy", stored.manifest, "copied")
    build("colour", write_records(tmp_path / "rows.jsonl", groups=290), format="native", out=tmp_path / "other",
          split_ratios=(0.5, 0.1, 0.4))  # fmt: skip
    how = {"decision": DecisionOptions(reason="a copy"), "store": store}
    how["evaluation"] = EvaluationOptions(cache_dir=tmp_path / "outputs")
    for kept, refused in (("required", {"held out"}), ("reported", set())):
        found = promote("copied@1", "production", Policy(held_out=kept), tmp_path / "other", **how)
        assert broken(found) == refused
        assert found.move.decision.policy["held_out"] == kept


def test_a_changed_dataset_is_an_error(shop, tmp_path):
    data = tmp_path / "data"
    build("colour", shop.root / "rows.jsonl", format="native", out=data)
    with (data / "test.jsonl").open("a") as file:
        file.write('{"id": "x", "group": "x", "query": "red", "colour": "red"}\n')
    with pytest.raises(DataError, match="changed"):
        shop.promote(2, data=data)
    assert shop.store.history(NAME) == []


def test_a_circular_judge_is_refused(shop, tmp_path):
    qrels = {record["id"]: {"d1": 1} for record in read_jsonl(shop.data / "test.jsonl")}
    card = JudgmentsCard("llm", "2026-01-01", judge=f"{NAME}@1", judge_lineage=(f"{NAME}@1",))
    write_judgments(tmp_path / "qrels.txt", qrels, card)
    recorded = shop.store.evaluations(NAME)
    found = shop.promote(2, Policy(judgments=("human", "llm")), qrels=tmp_path / "qrels.txt")
    assert shop.store.evaluations(NAME) == recorded  # no circular figure among them
    assert broken(found) == {"no circular judge"}
    assert f"{NAME}@2" in found.evaluated.comparison.circular
    found = shop.promote(2, qrels=tmp_path / "qrels.txt")
    assert "source of judgments" in broken(found)


@pytest.mark.parametrize(("source", "refused"), [("human", False), ("llm", True), (None, True)])
def test_labels_are_of_people_only_where_it_is_declared(shop, tmp_path, source, refused):
    building.build(
        "colour", shop.root / "rows.jsonl", format="native", out=tmp_path / "data", split_ratios=(0.5, 0.1, 0.4),
        judgments_source=source,
    )  # fmt: skip
    found = shop.promote(2, Policy(beat={}, judgments=("human",)), data=tmp_path / "data")
    assert ("source of judgments" in broken(found)) == refused
    assert found.move.decision.evidence["judgments"] == (source or "unknown")
    finding = rule_of(found, "source of judgments").finding
    if refused:
        rows = len(found.evaluated.records)
        assert f"not accepted: {rows} {source or 'unknown'}" in finding
        assert ("--judgments-source" in finding) == (source in (None, "unknown"))
        accepting = shop.promote(2, Policy(beat={}, judgments=("human", source or "unknown")), data=tmp_path / "data")
        assert "source of judgments" not in broken(accepting)


def test_human_qrels_do_not_stand_for_labels_of_another_source(shop, tmp_path):
    """The figures of a task that does not retrieve come from its labels."""
    building.build(
        "colour", shop.root / "rows.jsonl", format="native", out=tmp_path / "data", split_ratios=(0.5, 0.1, 0.4),
        judgments_source="llm",
    )  # fmt: skip
    qrels = {record["id"]: {"d1": 1} for record in read_jsonl(tmp_path / "data" / "test.jsonl")}
    write_judgments(tmp_path / "qrels.txt", qrels, JudgmentsCard("human", ""))
    policy = Policy(beat={}, judgments=("human", "mixed"))
    found = shop.promote(2, policy, data=tmp_path / "data", qrels=tmp_path / "qrels.txt")
    assert "source of judgments" in broken(found)


def test_judgments_of_other_rows_are_an_error(shop, tmp_path):
    """Else a task that is measured by retrieval would be decided on by what needs no judgments."""
    write_qrels(tmp_path / "qrels.txt", {"elsewhere": {"d1": 1}})
    with pytest.raises(DataError, match="no judgment belongs to a record of the split 'test'"):
        shop.promote(2, qrels=tmp_path / "qrels.txt")
    assert shop.store.history(NAME) == []


def test_promoting_the_current_version_is_an_error(shop):
    shop.store.alias(NAME, "production", 2)
    with pytest.raises(UsageError, match=r"already points to shop-colour@2"):
        shop.promote(2)


def test_the_command_exits_1_on_refusal_and_writes_junit_and_summary(shop, tmp_path, cli):
    shop.store.alias(NAME, "production", 2)
    (tmp_path / "policy.yaml").write_text("beat: {base: {}, incumbent: {margin: 0.01}}\n")
    files = {"--junit": tmp_path / "junit.xml", "--summary": tmp_path / "summary.md", "--out": tmp_path / "out"}
    arguments = ["--to", "production", "--policy", tmp_path / "policy.yaml", "--data", shop.data]
    options = [part for pair in files.items() for part in pair]
    called = cli("promote", f"{NAME}@1", *arguments, *options, "--store", shop.store.root)
    assert called.code == 1
    assert "rules are broken; 'production' is unchanged" in called.err
    assert "BROKEN" in called.out
    assert 'failures="' in files["--junit"].read_text()
    assert files["--summary"].read_text().startswith(f"### {NAME}@1 to production: refused")
    assert (files["--out"] / "report.html").is_file()


def test_decisions_and_evaluations_on_the_same_rows_are_counted_over_all_adapters(shop, tmp_path):
    store = Store(shutil.copytree(shop.store.root, tmp_path / "store"))
    (store.root / NAME / "evaluations.json").unlink(missing_ok=True)
    own = dataclasses.replace(shop, store=store)
    store.alias(NAME, "production", ALWAYS_RED)
    first = own.promote(ALWAYS_GREEN)
    assert first.refused and "candidate 1 on" in rule_of(first, "uses of the test rows").finding
    assert "candidate 1 on" in rule_of(own.promote(ALWAYS_GREEN), "uses of the test rows").finding  # the same candidate
    stored = store.get(f"{NAME}@{ALL_RIGHT}")
    shutil.copytree(stored.path, tmp_path / "copy", copy_function=shutil.copyfile)
    store.adopt(tmp_path / "copy", stored.manifest, "other")
    evaluate("other@1", shop.data, EvaluationOptions(cache_dir=shop.root / "outputs"), store=store)
    worn = own.promote(ALL_RIGHT, Policy(decisions=2), reason="a trial")
    assert broken(worn) == {"uses of the test rows"} and worn.refused
    assert "candidate 3 on" in rule_of(worn, "uses of the test rows").finding
    assert not own.promote(ALL_RIGHT, Policy(decisions=3), reason="a trial").refused


@pytest.mark.parametrize(("known", "refused"), [(1, False), (10, True)])
def test_a_few_rows_with_training_queries_are_left_out_and_more_are_refused(shop, tmp_path, known, refused):
    rows = [*read_jsonl(shop.data / "test.jsonl"), *read_jsonl(shop.data / "train.jsonl")[:known]]
    data = native_dataset("colour", tmp_path / "data", rows, split_ratios=(0, 0, 1), judgments_source="human")
    found = shop.promote(ALL_RIGHT, Policy(beat={"base": {}}), data)
    held_out = rule_of(found, "held out")
    assert held_out.passed != refused
    assert f"{known} of {len(rows)}" in held_out.finding
    assert ("data build" in held_out.finding) == refused
    assert len(found.evaluated.records) == len(rows) - (0 if refused else known)
    assert found.move.decision.evidence["left out"] == (0 if refused else known)
