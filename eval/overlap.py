"""How much of a reference text an output repeats. Secondary figures: a rewrite is judged by what it retrieves."""

from __future__ import annotations

import re
from collections.abc import Sequence

from searchlora.errors import UsageError


def corpus_bleu(outputs: Sequence[str], references: Sequence[str]) -> float:
    """BLEU over all rows, 0 to 100, one reference per row, by sacrebleu with its defaults (13a tokens, exp smoothing).

    Source: Papineni et al. (ACL 2002); Post (WMT 2018).
    """
    import sacrebleu

    _check(outputs, references)
    return float(sacrebleu.corpus_bleu(list(outputs), [list(references)]).score)


def rouge_l(outputs: Sequence[str], references: Sequence[str]) -> list[float]:
    """ROUGE-L F1 per row, 0 to 1, by rouge-score without stemming, over words of any alphabet. Source: Lin (2004)."""
    from rouge_score.rouge_scorer import RougeScorer

    _check(outputs, references)
    scorer = RougeScorer(["rougeL"], tokenizer=_Words())
    return [
        float(scorer.score(reference, output)["rougeL"].fmeasure)
        for output, reference in zip(outputs, references, strict=True)
    ]


class _Words:
    """Rouge-score's own tokenizer knows the letters a to z only."""

    def tokenize(self, text: str) -> list[str]:
        return re.findall(r"[^\W_]+", text.lower())


def _check(outputs: Sequence[str], references: Sequence[str]) -> None:
    if len(outputs) != len(references):
        raise UsageError(f"{len(outputs)} outputs cannot be set against {len(references)} references")
    if not outputs:
        raise UsageError("there are no outputs to measure")
