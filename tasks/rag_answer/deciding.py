"""Rules of answers: when to abstain, which passages to cite, which sentences to keep, and what to add.

A stage `adapter` of a pipeline names the rules; `searchlora tune` fits their thresholds on validation records:

    tuned: {abstain: judge, cite: judge, keep: support, add: quotes}   # to be tuned
    tuned: {abstain: {by: judge, below: 0.31}, cite: {by: judge, from: 0.4}}  # tuned

The judge is an earlier stage that writes `grades`: for each passage its `relevance` from 0 to 1. It is a probability if
an adapter of the judgment task is the judge, and a scaled cosine if an encoder is. `add: quotes` needs an earlier stage
that has answered, such as `classical`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from searchlora.errors import UsageError
from searchlora.outputs import CitedAnswer
from searchlora.records import Record
from searchlora.tasks.rag_answer.citations import (
    MAX_CITATIONS,
    cited_sentences,
    evidence,
    joined,
    sentences,
    supported,
    titled,
    with_marks,
)

#: Who decides to abstain and to cite, and what decides which sentences are kept or added.
ANSWER, JUDGE, SUPPORT, QUOTES = "answer", "judge", "support", "quotes"
ABSTAINS, CITES = (ANSWER, JUDGE), (ANSWER, JUDGE, SUPPORT)

#: Who can decide, by the kind of rule.
KINDS: Mapping[str, tuple[str, ...]] = {
    "abstain": ABSTAINS,
    "cite": CITES,
    "keep": (ANSWER, SUPPORT),
    "add": (ANSWER, QUOTES),
}

#: Keys of a tuned rule besides `by`.
_NUMBERS = {
    ("abstain", ANSWER): ("from",),
    ("abstain", JUDGE): ("below",),
    ("cite", ANSWER): (),
    ("cite", JUDGE): ("from",),
    ("cite", SUPPORT): (),
    ("keep", SUPPORT): (),
    ("add", QUOTES): (),
}
_FIX = "Fit its thresholds: searchlora tune PIPELINE --data DATA --out TUNED.yaml."


@dataclass(frozen=True)
class Rule:
    """A rule with its thresholds."""

    by: str
    numbers: Mapping[str, float]

    def plain(self) -> dict[str, Any]:
        """The rule as in a pipeline file."""
        return {"by": self.by, **self.numbers}


def decider(tuned: Mapping[str, Any], kind: str) -> object:
    """What tuned values name as a rule of a kind, known or not; None without one."""
    value = tuned.get(kind)
    return value.get("by") if isinstance(value, Mapping) else value


def rule_of(tuned: Mapping[str, Any], kind: str) -> Rule | None:
    """The rule of a kind of `KINDS` in tuned values; None where the answering model decides."""
    value, by = tuned.get(kind), decider(tuned, kind)
    if value is None or value == ANSWER:
        return None
    if by not in KINDS[kind]:
        raise UsageError(f"{kind}: '{by}' is not one of {', '.join(KINDS[kind])}")
    given = {key: number for key, number in value.items() if key != "by"} if isinstance(value, Mapping) else {}
    wanted = _NUMBERS[kind, by]
    if wanted and not given:
        raise UsageError(f"{kind}: the rule '{by}' has no thresholds", fix=_FIX)
    if set(given) != set(wanted) or not all(_is_number(number) for number in given.values()):
        raise UsageError(f"{kind}: the rule '{by}' needs the numbers {', '.join(wanted) or '(none)'}", fix=_FIX)
    return Rule(str(by), {key: float(given[key]) for key in wanted})


def check(tuned: Mapping[str, Any]) -> None:
    """Raise `UsageError` for an unusable rule."""
    for kind in KINDS:
        rule_of(tuned, kind)


def needs_judge(tuned: Mapping[str, Any]) -> bool:
    """Whether a rule needs the grades of the passages."""
    rules = [rule_of(tuned, kind) for kind in KINDS]
    return any(rule is not None and rule.by == JUDGE for rule in rules)


def relevances(record: Record) -> list[float] | None:
    """The judge's probability of relevance of each passage, in order; None if a passage has none."""
    by_id = {grade["id"]: float(grade["relevance"]) for grade in record.get("grades", ())}
    if any(passage["id"] not in by_id for passage in record["passages"]):
        return None
    return [by_id[passage["id"]] for passage in record["passages"]]


def abstention(rule: Rule, own: float | None, relevance: float) -> tuple[bool, str]:
    """Whether to abstain, and why."""
    if rule.by == JUDGE:
        below = rule.numbers["below"]
        return relevance < below, f"judge: highest relevance {relevance:.3f}, threshold {below:.3f}"
    if own is None:
        raise UsageError(
            f"abstain: the rule '{rule.by}' needs the probability of the abstention, which was not scored",
            fix="Remove 'constrained: false' from the stage.",
        )
    threshold = rule.numbers["from"]
    return own >= threshold, f"answer: probability of abstaining {own:.3f}, threshold {threshold:.3f}"


def relevant_passages(relevance: Sequence[float], least: float) -> tuple[int, ...]:
    """Numbers, from 1, of the passages to cite: the most relevant one, and at most one more from `least` on.

    Examples:
        >>> relevant_passages([0.2, 0.9, 0.6], 0.5), relevant_passages([0.2, 0.1], 0.5)
        ((2, 3), (1,))
    """
    order = sorted(range(len(relevance)), key=lambda place: -relevance[place])
    chosen = order[:1] + [place for place in order[1:MAX_CITATIONS] if relevance[place] >= least]
    return tuple(sorted(place + 1 for place in chosen))


def recited(answer: CitedAnswer, record: Record, rule: Rule) -> CitedAnswer:
    """The answer with its citations replaced.

    * `judge`: every sentence cites the passages that the judge holds relevant.
    * `support`: every sentence cites the passages that support it most, or none; see `citations`.
    """
    sentence_texts = [sentence.text for sentence in sentences(answer.text)]
    if answer.abstained or not sentence_texts:
        return answer
    if rule.by == SUPPORT:
        texts = {number: titled(passage) for number, passage in enumerate(record["passages"], start=1)}
        marked = cited_sentences(sentence_texts, texts)
    else:
        relevance = relevances(record)
        assert relevance is not None  # `parse` has checked it
        relevant = relevant_passages(relevance, rule.numbers["from"])
        marked = [with_marks(sentence, relevant) for sentence in sentence_texts]
    return _of_sentences(marked, answer)


def supported_only(answer: CitedAnswer, record: Record, abstention: str) -> CitedAnswer:
    """The answer without the sentences that the passages which they cite do not support; see `citations`.

    A sentence without citations counts by all passages. Where no sentence is left, the answer is the abstention.
    """
    if answer.abstained:
        return answer
    kept = [each for each in evidence(answer.text, record["passages"]) if each.supported is not False]
    if not any(each.supported for each in kept):
        reason = "no sentence of the answer is supported by the passages that it cites"
        return CitedAnswer(abstention, (), True, answer.abstention_probability, reason)
    return _of_sentences([with_marks(each.sentence, each.citations) for each in kept], answer)


def with_quotations(answer: CitedAnswer, quoted: CitedAnswer) -> CitedAnswer:
    """The answer, and after it the sentences of a quoted one that it does not say; the quoted one if either abstains.

    Examples:
        >>> quoted = CitedAnswer("The tent weighs 2 kg [1]. It is red [2].", (1, 2), abstained=False)
        >>> with_quotations(CitedAnswer("The dome tent weighs 2 kg [1].", (1,), abstained=False), quoted).text
        'The dome tent weighs 2 kg [1]. It is red [2].'
    """
    if quoted.abstained or answer.abstained:
        return replace(quoted, abstention_probability=answer.abstention_probability)
    new = [each for each in sentences(quoted.text) if not supported(each.text, [answer.text])]
    return _of_sentences([with_marks(each.text, each.citations) for each in (*sentences(answer.text), *new)], answer)


def _of_sentences(marked: Sequence[str], answer: CitedAnswer) -> CitedAnswer:
    """The answer with these sentences, with their marks, in place of its own."""
    text = joined(marked)
    numbers = tuple(dict.fromkeys(number for sentence in sentences(text) for number in sentence.citations))
    return CitedAnswer(text, numbers, False, answer.abstention_probability, answer.reason)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
