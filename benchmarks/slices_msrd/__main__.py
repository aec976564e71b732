"""Slices of MSRD in which BM25 over all text loses against BM25 over titles, found and confirmed.

    python -m benchmarks.slices_msrd

All 13,241 queries, since nothing is trained; near variants of a query are in one half. A minute, once the dataset is
built in `benchmarks/work`.
"""

from __future__ import annotations

from dataclasses import replace

from benchmarks.common import save
from benchmarks.rewriting_msrd.__main__ import dataset_of_queries
from searchlora.cli.terminal import print_comparison
from searchlora.eval.report.blocks import markdown
from searchlora.eval.report.heat_maps import found_section
from searchlora.retrieval import BM25Index
from searchlora.systems.fixed import FixedResults
from searchlora.systems.measure import measure
from searchlora.systems.measures import RetrievalMeasures

NAME = "slices_msrd"
ALL, TITLES = "BM25", "BM25 of titles"
DEPTH = 10
SPLITS = ("train", "validation", "test")


def main() -> None:
    data = dataset_of_queries()
    records = [
        {key: record[key] for key in ("id", "group", "query")} for split in SPLITS for record in data.records(split)
    ]
    documents = data.documents() or []
    queries = {str(record["id"]): str(record["query"]) for record in records}
    systems = []
    for name, searched in (
        (ALL, documents),
        (TITLES, [replace(document, text="") for document in documents]),
    ):
        found = BM25Index(searched).search(list(queries.values()), DEPTH)
        run = {query: {hit.document: hit.score for hit in hits} for query, hits in zip(queries, found, strict=True)}
        systems.append(FixedResults(name, records, run=run))
    measures = RetrievalMeasures(data.qrels(), ["nDCG@10"], cluster="group", unjudged=False)
    comparison = measure(systems, records, measures, candidate=ALL).comparison
    print_comparison(comparison)
    save(NAME, comparison, {"table": markdown([found_section(comparison, queries)])})


if __name__ == "__main__":
    main()
