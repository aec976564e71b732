"""Reader of SQuAD 1.1 and 2.0: questions on paragraphs of Wikipedia articles, with answer spans.

Source: Rajpurkar et al. (EMNLP 2016), Rajpurkar, Jia and Liang (ACL 2018); https://rajpurkar.github.io/SQuAD-explorer.
One JSON object: `data` is a list of articles (`title`, `paragraphs`), a paragraph has `context` and `qas`, a question
`id`, `question`, `answers` (`text`, `answer_start`), and in 2.0 `is_impossible`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from searchlora.data.formats.common import split_files
from searchlora.errors import DataError
from searchlora.files import Rows, check_file, json_file
from searchlora.records import RejectedRow, SourceRow


def read_squad(source: Path) -> Rows:
    """One row per question, in file order.

    Args:
        source: A file (`.json`, `.json.gz`), or a folder with a file per split. A file is read whole into memory.

    Yields:
        `id`; `article` (its title); `paragraph` (one word: title, underscore, number in the article from 1); `context`
        (the text of the paragraph); `question`; `answers` (distinct `text`, `start` that occur in the context, with
        start in characters from 0); `impossible` (the paragraph does not answer it; no answers); `split` (None for a
        single file).

    Raises:
        DataError: if the file is not one JSON object with a list `data`.
    """
    for path, split in split_files(source):
        for number, article in enumerate(_articles(path), start=1):
            yield from _rows(article, f"{path.name}, article {number}", split)


def _articles(path: Path) -> list[Any]:
    check_file(path)
    value = json_file(path)
    if not isinstance(value, dict) or not isinstance(value.get("data"), list):
        raise DataError("is not a SQuAD file: it is not an object with a list 'data'", where=path.name)
    articles: list[Any] = value["data"]
    return articles


def _rows(article: Any, where: str, split: str | None) -> Rows:
    if not isinstance(article, dict) or not isinstance(article.get("paragraphs"), list):
        yield RejectedRow(where, "is not an article with a list 'paragraphs'", article)
        return
    title = str(article.get("title") or where)
    for number, paragraph in enumerate(article["paragraphs"], start=1):
        at = f"{where}, paragraph {number}"
        if not _is_paragraph(paragraph):
            yield RejectedRow(at, "is not a paragraph with text 'context' and a list 'qas'", paragraph)
            continue
        shared = {
            "article": title,
            "paragraph": f"{'_'.join(title.split())}_{number}",
            "context": paragraph["context"],
            "split": split,
        }
        for position, question in enumerate(paragraph["qas"], start=1):
            yield _row(question, shared, f"{at}, question {position}")


def _is_paragraph(value: Any) -> bool:
    return isinstance(value, dict) and isinstance(value.get("context"), str) and isinstance(value.get("qas"), list)


def _row(question: Any, shared: Mapping[str, Any], where: str) -> SourceRow | RejectedRow:
    if not isinstance(question, dict) or not all(isinstance(question.get(name), str) for name in ("id", "question")):
        return RejectedRow(where, "is not a question with text 'id' and 'question'", question)
    impossible = bool(question.get("is_impossible", False))
    answers = [] if impossible else list(_answers(question.get("answers"), shared["context"]))
    if not answers and not impossible:
        return RejectedRow(where, "field 'answers': none of them is in the context at its 'answer_start'", question)
    terms = {"id": question["id"], "question": question["question"].strip(), "answers": answers}
    return SourceRow({**shared, **terms, "impossible": impossible}, where)


def _answers(listed: Any, context: str) -> Iterator[dict[str, Any]]:
    seen = set()
    for answer in listed if isinstance(listed, list) else []:
        text, start = (answer.get("text"), answer.get("answer_start")) if isinstance(answer, dict) else (None, None)
        if not isinstance(text, str) or not text or not isinstance(start, int) or start < 0:
            continue
        if context.startswith(text, start) and (text, start) not in seen:
            seen.add((text, start))
            yield {"text": text, "start": start}
