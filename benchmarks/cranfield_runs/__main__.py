"""BM25 variants, a dense encoder and fusions on the Cranfield collection, each compared with default BM25.

    python -m benchmarks.cranfield_runs

Runs are stored as TREC files in `benchmarks/work/cranfield_runs` and reused. Encoding takes minutes on a CPU, the rest
seconds. No setting was tuned on these results.
"""

from __future__ import annotations

from benchmarks.common import WORK, real_data, save
from benchmarks.cranfield_runs.systems import BASELINE, DEPTH, ENCODER, FUSIONS, Cranfield, cranfield_systems
from searchlora.cli.terminal import print_comparison, progress_bars
from searchlora.eval.comparison import compare
from searchlora.eval.evaluation import evaluate_run
from searchlora.eval.trec import read_run
from searchlora.retrieval import Encoder

MEASURES = ("nDCG@10", "MRR@10", "Recall@100")


def main() -> None:
    with progress_bars() as steps:
        paths = cranfield_systems(WORK / "cranfield_runs", steps=steps)
    data = Cranfield(real_data() / "cranfield")
    # Cranfield is judged completely: a document without a judgment is not relevant.
    systems = {
        name: evaluate_run(read_run(path), data.qrels, measures=MEASURES, unjudged=False)
        for name, path in paths.items()
    }
    comparison = compare(systems, baseline=BASELINE, measures=MEASURES)
    save("cranfield_runs", comparison, _about(data))
    print_comparison(comparison)


def _about(data: Cranfield) -> dict[str, object]:
    encoder = Encoder.load(ENCODER)
    texts = [document.searchable for document in data.documents]
    return {
        "documents": len(texts),
        "documents_without_text": sum(not text for text in texts),
        "topics": len(data.queries),
        "judged_relevant": sum(len(grades) for grades in data.qrels.values()),
        "depth": DEPTH,
        "encoder": {
            "model": ENCODER,
            "cut_at_tokens": encoder.max_tokens,
            "documents_cut": sum(encoder.tokens(text) > (encoder.max_tokens or len(text)) for text in texts),
        },
        "fusions": {name: {"method": method, "of": parts} for name, (method, parts) in FUSIONS.items()},
    }


if __name__ == "__main__":
    main()
