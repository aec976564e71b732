"""Who decides when to abstain and what to cite, the model or a judge; thresholds are fitted."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from searchlora.errors import DataError, PipelineError, UsageError
from searchlora.outputs import CitedAnswer, InvalidOutput
from searchlora.task import load_generation_task
from searchlora.tasks.rag_answer.deciding import abstention, rule_of
from searchlora.tasks.rag_answer.tuning import MAX_THRESHOLD, _Row, fitted, mean_f1, tuned, tuned_rules

TASK = load_generation_task("rag_answer")
PASSAGES = [
    {"id": "a", "text": "The dome tent weighs 2 kg."},
    {"id": "b", "text": "Boots need wax."},
    {"id": "c", "text": "A dome tent is round."},
]


def record(*relevance: float, name: str = "r", answerable: bool = True, gold: tuple[str, ...] = ("a",)):
    grades = [{"id": each["id"], "relevance": of} for each, of in zip(PASSAGES, relevance, strict=False)]
    asked = {"id": name, "group": name, "question": "How heavy is the dome tent?", "passages": PASSAGES}
    return {**asked, "grades": grades, "answerable": answerable, "gold": list(gold) if answerable else []}


def bound(**rules):
    return TASK.bound(TASK.settings, rules)


def scored(own: float) -> CitedAnswer:
    """What a model answers before its continuation: above 0.5 it would abstain by itself."""
    return TASK.output(record()).at_threshold(own, 0.5)


def test_the_judge_overrules_the_model_and_says_why():
    task = bound(abstain={"by": "judge", "below": 0.4})
    quiet = task.apply_tuning(scored(0.1), record(0.1, 0.3, 0.2))
    assert quiet.abstained and quiet.text == TASK.settings["abstention"]
    assert quiet.reason == "judge: highest relevance 0.300, threshold 0.400"
    sure = task.apply_tuning(scored(0.9), record(0.1, 0.4, 0.2))
    assert not sure.abstained and sure.text == ""
    finished = task.output(record(0.1, 0.4, 0.2)).with_continuation(sure, "It weighs 2 kg [1].")
    assert (finished.text, finished.reason) == ("It weighs 2 kg [1].", sure.reason)


def test_an_abstention_that_the_model_writes_against_the_rule_is_said_to_be_its_own():
    task = bound(abstain={"by": "judge", "below": 0.4})
    sure = task.apply_tuning(scored(0.9), record(0.9, 0, 0))
    finished = task.output(record()).with_continuation(sure, str(TASK.settings["abstention"]))
    assert finished.abstained and finished.reason == "written by the model, which was to answer"


def test_the_model_decides_only_with_its_probability():
    with pytest.raises(UsageError, match=r"was not scored.*constrained"):
        abstention(rule_of({"abstain": {"by": "answer", "from": 0.5}}, "abstain"), None, 0.5)


def test_sentences_cite_what_the_judge_holds_relevant():
    task, row = bound(cite={"by": "judge", "from": 0.5}), record(0.2, 0.6, 0.9)
    answer = task.output(row).parse("It weighs 2 kg [1]. It is round.")
    assert (answer.text, answer.citations) == ("It weighs 2 kg [2][3]. It is round [2][3].", (2, 3))
    assert task.output(record(0.1, 0.2, 0.3)).parse("It weighs 2 kg [1].").citations == (3,)


def test_sentences_cite_what_supports_them():
    answer = bound(cite="support").output(record()).parse("The tent weighs 2 kg [2]. It costs 9 euros [1].")
    assert (answer.text, answer.citations) == ("The tent weighs 2 kg [1]. It costs 9 euros.", (1,))
    assert bound(cite="answer").output(record()).parse("It weighs 2 kg [2].").citations == (2,)


def test_only_sentences_that_their_passages_support_are_kept():
    task = bound(keep="support")
    answer = task.output(record()).parse("The tent weighs 2 kg [1]. It weighs 2 kg [2]. It is waterproof. That is it.")
    assert (answer.text, answer.citations) == ("The tent weighs 2 kg [1]. That is it.", (1,))
    both = bound(cite={"by": "judge", "from": 0.5}, keep="support").output(record(0.2, 0.6, 0.9))
    assert both.parse("A dome tent is round [1]. The tent weighs 2 kg [1].").text == "A dome tent is round [2][3]."


def test_an_answer_without_a_supported_sentence_is_the_abstention():
    sure = scored(0.1)
    finished = bound(keep="support").output(record()).with_continuation(sure, "It costs 9 euros [1].")
    assert finished.abstained and finished.text == TASK.settings["abstention"] and not finished.citations
    assert finished.reason == "no sentence of the answer is supported by the passages that it cites"
    assert finished.abstention_probability == sure.abstention_probability


QUOTED = CitedAnswer("The dome tent weighs 2 kg [1]. Boots need wax [2].", (1, 2), abstained=False)


def test_quotations_that_an_answer_does_not_say_come_after_it():
    row = {**record(), "quoted": QUOTED}
    answer = bound(add="quotes").output(row).parse("The tent weighs 2 kg [1]. It costs 9 euros [3].")
    assert answer.text == "The tent weighs 2 kg [1]. It costs 9 euros [3]. Boots need wax [2]."
    assert answer.citations == (1, 3, 2)
    kept = bound(keep="support", add="quotes").output(row).parse("A dome tent weighs 2 kg [1]. It costs 9 euros [2].")
    assert (kept.text, kept.citations) == ("A dome tent weighs 2 kg [1]. Boots need wax [2].", (1, 2))


def test_where_nothing_is_written_the_answer_is_quoted():
    row = {**record(), "quoted": QUOTED}
    task = bound(keep="support", add="quotes")
    assert task.output(row).parse("It costs 9 euros [1].") == QUOTED
    assert task.fallback(row) == QUOTED
    silent = CitedAnswer("I cannot say.", (), abstained=True)
    assert task.output({**row, "quoted": silent}).parse("The tent weighs 2 kg [1].") == silent


def test_quotations_are_added_only_of_an_answer_that_was_given():
    task, search = bound(add="quotes"), {"id": "q", "query": "how heavy", "passages": PASSAGES}
    with pytest.raises(PipelineError, match=r"query q: no stage has answered.*Put a stage 'classical'"):
        task.records_from(search)
    assert task.records_from({**search, "answer": QUOTED})[0]["quoted"] == QUOTED
    assert "quoted" not in bound(add="answer").records_from({**search, "answer": QUOTED})[0]
    assert "quoted" not in task.bound().reads
    assert "quoted" in bound(add={"by": "quotes"}).reads
    found = task.output(record()).parse("The tent weighs 2 kg [1].")
    assert isinstance(found, InvalidOutput) and "no stage has answered" in found.reason


def test_tuning_leaves_the_rules_of_what_is_kept_and_added():
    rows = [record(0.9, 0, 0, name="a"), record(0.1, 0, 0, name="b", answerable=False)]
    found = bound(cite="judge", keep="support", add="quotes").tune(rows, [scored(0.2), scored(0.4)])
    assert (found["keep"], found["add"]) == ("support", "quotes")
    assert found["cite"]["by"] == "judge"


def test_items_of_a_list_stay_sentences_of_their_own():
    rows = record() | {"passages": [{"id": "a", "text": "Fill in the form."}, {"id": "b", "text": "Send it back."}]}
    task = bound(abstain={"by": "answer", "from": 0.5}, cite={"by": "support"})
    answer = task.parse("- Fill in the form [2]\n- Send it back [1]", rows)
    assert answer.text == "- Fill in the form [1]\n- Send it back [2]"
    assert [each.supported for each in task.evidence({"passages": rows["passages"]}, answer)] == [True, True]


def test_an_answer_whose_passages_no_judge_has_graded_is_invalid():
    task = bound(abstain={"by": "judge", "below": 0.3}, cite={"by": "judge", "from": 0.4})
    found = task.parse("It is 2 kg [1].", {key: value for key, value in record().items() if key != "grades"})
    assert isinstance(found, InvalidOutput) and "the judge has not graded" in found.reason


def test_the_threshold_of_the_model_is_the_best_of_those_that_it_may_have():
    own = np.array([0.9] * 4 + [0.3] * 3 + [0.6] * 4 + [0.1] * 4)
    rows = [_Row(str(number), number < 7, score, (0.5,), frozenset()) for number, score in enumerate(own.tolist())]
    assert fitted("answer", rows).numbers["from"] == pytest.approx(0.2)


def test_without_a_judge_nothing_is_guessed():
    task, row = bound(abstain={"by": "judge", "below": 0.4}), {**record(), "grades": []}
    with pytest.raises(PipelineError, match="query q: no stage has judged the passages"):
        task.records_from({"id": "q", "query": "how heavy", "passages": PASSAGES})
    found = task.apply_tuning(scored(0.1), row)
    assert isinstance(found, InvalidOutput) and "judge has graded none" in found.reason
    assert isinstance(task.apply_tuning(scored(0.1), record(0.9)), InvalidOutput)
    outputs = {"judgment": [InvalidOutput("?", "no")]}
    (failed,) = task.records_from({"id": "q", "query": "how heavy", "passages": PASSAGES, "outputs": outputs})
    assert "grades" not in failed


@pytest.mark.parametrize(
    ("rules", "complaint"),
    [
        ({"abstain": "judge"}, "has no thresholds. Fit its thresholds: searchlora tune"),
        ({"cite": "judge"}, "has no thresholds"),
        ({"abstain": "dice"}, "'dice' is not one of answer, judge"),
        ({"cite": {"by": "both"}}, "'both' is not one of answer, judge, support"),
        ({"keep": "judge"}, "'judge' is not one of answer, support"),
        ({"add": "judge"}, "'judge' is not one of answer, quotes"),
        ({"abstain": {"by": "judge", "below": "low"}}, "needs the numbers below"),
        ({"abstain": {"by": "judge", "from": 0.5}}, "needs the numbers below"),
    ],
)
def test_unusable_rules_are_refused(rules, complaint):
    with pytest.raises(UsageError) as refused:
        TASK.check_tuned(rules)
    assert complaint in str(refused.value)


def test_unsupported_sentences_of_an_answer_are_named():
    answer = TASK.output(record()).parse("The tent weighs 2 kg [1]. It weighs 2 kg [2]. It is waterproof.")
    found = TASK.updates({"id": "q", "passages": PASSAGES}, [answer])
    assert found == {"answer": answer, "unsupported": ["It weighs 2 kg.", "It is waterproof."]}
    quiet = TASK.fallback(record())
    assert TASK.updates({"id": "q", "passages": PASSAGES}, [quiet]) == {"answer": quiet}


def rows(count: int = 40):
    """Rows that the judge tells apart, but for one in eight, and the model does not."""
    chance = np.random.default_rng(3)
    records, outputs = [], []
    for number in range(count):
        answerable = number % 3 > 0
        high = answerable != (number % 8 == 7)
        best = chance.uniform(0.6, 0.9) if high else chance.uniform(0.1, 0.4)
        records.append(record(best, 0.05, 0.08, name=f"r{number}", answerable=answerable))
        outputs.append(scored(float(chance.uniform(0.1, 0.9))))
    return records, outputs


def test_thresholds_are_fitted_and_rules_compared_on_validation_records():
    records, outputs = rows()
    found = tuned_rules(records, outputs, {"abstain": "judge", "cite": "judge"})
    assert 0.4 < found["abstain"]["below"] < 0.6
    assert found["cite"]["from"] > 0.08  # the second passage is never gold
    assert found["validation"]["rows"] == 40 and found["validation"]["unanswerable"] == 14
    compared = found["validation"]["mean F1"]
    assert compared["judge"] > 0.8 > compared["answer"]
    task = bound(**{key: found[key] for key in ("abstain", "cite")})
    predicted = [task.apply_tuning(output, row).abstained for row, output in zip(records, outputs, strict=True)]
    assert mean_f1(np.array(predicted), np.array([not row["answerable"] for row in records])) > 0.8
    assert "cite" not in tuned_rules(records, outputs, {"abstain": "judge"})


def test_records_of_one_kind_cannot_be_tuned_on():
    records, outputs = rows()
    with pytest.raises(DataError, match="0 of 26 validation records"):
        chosen = [number for number, row in enumerate(records) if row["answerable"]]
        tuned_rules([records[n] for n in chosen], [outputs[n] for n in chosen], {"abstain": "judge"})


SCORED = st.lists(st.tuples(st.integers(0, 100).map(lambda each: each / 100), st.booleans()), min_size=1, max_size=20)


def scored_rows(rows):
    records = [{"id": str(place), "answerable": not silent} for place, (_, silent) in enumerate(rows)]
    return records, [CitedAnswer("", (), abstained=False, abstention_probability=given) for given, _ in rows]


def f1_by_hand(rows, least):
    def f1(pairs):
        right = sum(predicted and wanted for predicted, wanted in pairs)
        return 2 * right / max(1, sum(predicted + wanted for predicted, wanted in pairs))

    pairs = [(given >= least, silent) for given, silent in rows]
    return (f1(pairs) + f1([(not predicted, not wanted) for predicted, wanted in pairs])) / 2


@pytest.mark.slow
@given(SCORED)
def test_the_fitted_threshold_is_optimal(rows):
    found = tuned(*scored_rows(rows))
    kinds = {silent for _, silent in rows}
    assert bool(found) == (kinds == {True, False})
    if found:
        best = max(
            f1_by_hand(rows, least)
            for least in (0.0, MAX_THRESHOLD, *(given for given, _ in rows if given < MAX_THRESHOLD))
        )
        assert found["abstain_from"] <= MAX_THRESHOLD
        assert f1_by_hand(rows, found["abstain_from"]) == found["validation"]["mean F1"]
        assert found["validation"]["mean F1"] == best


def test_indistinguishable_rows_are_answered():
    rows = [(0.4, place % 4 == 0) for place in range(40)]  # always to abstain has an F1 of 0.4, never to has none
    likely = [*rows, (0.9, False)]
    assert tuned(*scored_rows(likely))["abstain_from"] > 0.4


def test_rows_without_a_score_are_skipped():
    records, outputs = scored_rows([(0.2, False), (0.4, True), (0.6, True)])
    more = [InvalidOutput("[9]", "cites passage 9"), CitedAnswer("Dry.", (), abstained=False)]
    found = tuned([*records, *records[:2]], [*outputs, *more])
    assert 0.2 < found["abstain_from"] < 0.4
    assert found["validation"] == {"rows": 3, "mean F1": 1.0}


def test_a_tuned_task_abstains_at_its_threshold():
    task = load_generation_task("rag_answer")
    record = task.examples[0]
    (_, (likely, unlikely)) = scored_rows([(0.3, True), (0.1, False)])
    bound = task.bound(task.settings, {"abstain_from": 0.2})
    assert bound.apply_tuning(likely, record).text == task.settings["abstention"]
    assert not bound.apply_tuning(unlikely, record).abstained
    assert task.apply_tuning(likely, record) == likely
    (_, (sure,)) = scored_rows([(0.6, True)])
    assert task.bound(task.settings, {"abstain_from": 0.9}).apply_tuning(sure, record).abstained
    written = CitedAnswer("Dry [1].", (1,), abstained=False)
    assert bound.apply_tuning(written, record) == written
