"""Academic sets as formats of the rewriting task."""

from __future__ import annotations

from pathlib import Path

from benchmarks.readers import cast, conversations, msrd
from searchlora.data.formats.common import FormatRows, mapped
from searchlora.data.splits import connected
from searchlora.records import Format, Option, Options, SourceReport, SourceRow
from searchlora.tasks.rewriting.dataset import with_own_options

#: Year -> description of the formats whose topic file includes the rewrites.
CAST = {
    2020: "TREC CAsT 2020 topics (2020_manual_evaluation_topics_v1.0.json)",
    2021: "TREC CAsT 2021 topics (2021_manual_evaluation_topics_v1.0.json)",
    2022: "TREC CAsT 2022 topics, tree or flattened (2022_evaluation_topics_tree_v1.0.json)",
}


def _mtrag(source: Path, options: Options) -> FormatRows:
    """MT-RAG's questions with passages, by which rewrites are measured; groups as of the rag_answer task."""
    del options
    rows: list[SourceRow] = []
    left_out = 0
    for row in conversations.read_mtrag(source):
        if not isinstance(row, SourceRow):
            yield row
        elif row.data["passages"]:
            rows.append(row)
        else:
            left_out += 1
    for row, first in zip(rows, connected([conversations.mtrag_keys(row.data) for row in rows]), strict=True):
        record = {name: row.data[name] for name in ("id", "query", "history")}
        yield SourceRow({**record, "group": str(rows[first].data["id"])}, row.where)
    yield SourceReport(("Questions without passages are left out.",), {"questions without passages left out": left_out})


FORMATS = tuple(
    with_own_options(format)
    for format in (
        Format(
            name="canard",
            description="CANARD (train.json, dev.json, test.json); its answers become the collection",
            read=conversations.read_canard,
            collection=lambda source, _: conversations.canard_collection(source),
            options={
                "from_turn": Option(
                    "turn of the first question read; 2 skips the questions that depend on the title",
                    "whole number ≥ 0",
                    "1",
                )
            },
            passes=2,
        ),
        Format(
            name="cast2019",
            description="TREC CAsT 2019 topics (evaluation_topics_v1.0.json), human rewrites in a TSV beside them",
            read=lambda source, options: cast.read_cast(
                source, cast.read_cast_rewrites(source, options.get("rewrites"))
            ),
            options={"rewrites": Option("the human rewrites as TSV", "file", "a TSV beside the topics")},
        ),
        *(
            Format(name=f"cast{year}", description=described, read=lambda source, _: cast.read_cast(source))
            for year, described in CAST.items()
        ),
        Format(
            name="qrecc",
            description="QReCC (qrecc_train.json, qrecc_test.json), or a folder with both",
            read=lambda source, _: cast.read_qrecc(source),
        ),
        Format(
            name="msrd",
            description="MSRD's folder (movies.jsonl, judgments.tsv): judged queries without rewrites, in families",
            read=mapped(
                lambda source, _: msrd.read_msrd(source),
                lambda data: {name: data[name] for name in ("id", "group", "query")},
            ),
            collection=lambda source, _: msrd.msrd_collection(source),
            passes=2,
        ),
        Format(
            name="mtrag",
            description="MT-RAG reference tasks (reference.jsonl): questions in conversations, without rewrites; their "
            "passages become the collection",
            read=_mtrag,
            collection=lambda source, _: conversations.mtrag_collection(source),
            passes=2,
        ),
    )
)
