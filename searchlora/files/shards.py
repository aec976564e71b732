"""Bulk work in shards: rows in, rows out, in parts on disk that several processes or machines share.

The rows of a job are cut into parts of equal size, whatever the number of shards is, and shard `i` of `n` computes
every n-th part. A part is a file whose name is a hash of its rows and of all else that its results depend on. It is
written batch by batch under another name, and renamed when it is complete. So a killed shard loses at most one batch,
the same command continues it, a repeated shard computes nothing twice, and the merged result has the same bytes for any
number of shards.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from searchlora.errors import DataError, UsageError, some
from searchlora.files.append_log import AppendLog
from searchlora.files.atomic import atomic_text, sync, writing
from searchlora.files.json_text import json_object
from searchlora.files.result_cache import cache_key
from searchlora.files.text import read_text
from searchlora.progress import Progress, silent

#: Rows of a part, unless a job chooses. A change makes the parts of unfinished work useless.
PART_ROWS = 512


@dataclass(frozen=True)
class Shard:
    """Shard `number` of `count`, from 1.

    Examples:
        >>> Shard.parse("2/4")
        Shard(number=2, count=4)
        >>> [part for part in range(8) if Shard(2, 4).takes(part)]
        [1, 5]
    """

    number: int = 1
    count: int = 1

    @classmethod
    def parse(cls, text: str) -> Shard:
        """The shard that `2/4` names. Raises `UsageError` for another text."""
        match = re.fullmatch(r"([0-9]{1,6})/([0-9]{1,6})", text)
        shard = cls(*map(int, match.groups())) if match is not None else None
        if shard is None or not 1 <= shard.number <= shard.count:
            raise UsageError(f"'{text}' is not a shard", where="--shard", fix="Give I/N, from 1/N to N/N.")
        return shard

    def takes(self, part: int) -> bool:
        """Whether a part, counted from 0, belongs to the shard."""
        return part % self.count == self.number - 1

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"


@dataclass(frozen=True)
class Job:
    """Rows in, and a function from rows to rows."""

    key: Any
    rows: Iterable[Any]
    compute: Callable[[Sequence[Any]], Sequence[Any]]
    batch: int
    read: Callable[[Sequence[Any]], Sequence[Any]] = list
    about: Mapping[str, Any] = field(default_factory=dict)
    part_rows: int | None = None  # rows of a part; None: `PART_ROWS`, or `batch` if that is more


class Parts:
    """The folder in which the shards of one job keep their parts.

    Examples:
        >>> import tempfile
        >>> parts = Parts(Path(tempfile.mkdtemp()) / "squares")
        >>> job = Job("squares", range(5000), lambda rows: [row * row for row in rows], batch=100)
        >>> for number in (1, 2):
        ...     parts.compute(job, Shard(number, 2))
        >>> merged = parts.merged()
        >>> merged.rows, sum(merged)
        (5000, 41654167500)
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @classmethod
    def beside(cls, out: str | Path, *folders: str) -> Parts:
        """The parts of a job that writes `out`: in `out.partial`, or in a folder there for each of several jobs."""
        return cls(Path(f"{out}{_PARTIAL}", *folders))

    def compute(self, job: Job, shard: Shard = Shard(), progress: Progress = silent, total: int | None = None) -> None:
        """Compute the parts of a shard that are missing."""
        parts: list[tuple[int, str, int]] = []
        done = seen = 0
        with writing(self.folder):
            for other, file in self._shards().items():
                if other == shard or other.count != shard.count:  # of an earlier call, which may have had other inputs
                    file.unlink(missing_ok=True)
        for number, references in enumerate(_cut(job)):
            seen += len(references)
            if not shard.takes(number):
                continue
            rows = job.read(references)
            key = _content_key(job, rows)
            share = None if total is None else total // shard.count
            if not self._file(key).exists():
                self._compute(key, job, rows, _shifted(progress, done, share))
            done += len(rows)
            progress(done, share)
            parts.append((number, key, len(rows)))
        with atomic_text(self._shard_file(shard)) as out:
            json.dump(
                {"key": cache_key(job.key, job.batch, job.part_rows), "about": job.about, "rows": seen, "parts": parts},
                out,
            )

    def merged(self) -> Merged:
        """The results of all shards, whose counts and keys are checked."""
        shards = self._shards()
        if not shards:
            fix = "Give the first --out of the command that computes them."
            raise DataError("there are no complete shards", where=str(self.folder), fix=fix)
        counts = [shard.count for shard in shards]
        count = min(counts, key=lambda count: count - counts.count(count))  # the one of which fewest are missing
        wanted = [Shard(number, count) for number in range(1, count + 1)]
        if missing := [str(shard) for shard in wanted if shard not in shards]:
            raise DataError(
                f"{len(missing)} of {count} shards are not complete: {some(missing)}",
                where=str(self.folder),
                fix="Run each of them with --shard; a killed one continues.",
            )
        contents = [_description(shards[shard]) for shard in wanted]
        for number, content in enumerate(contents, 1):
            if {**content, "parts": ()} != {**contents[0], "parts": ()}:
                raise DataError(
                    f"shard {number} of {count} had other inputs or weights than shard 1",
                    where=str(self.folder),
                    fix="Run all shards again with the same inputs; what is still valid is not computed again.",
                )
        parts = sorted(tuple(part) for content in contents for part in content["parts"])
        rows = sum(part[2] for part in parts)
        if [part[0] for part in parts] != list(range(len(parts))) or rows != contents[0]["rows"]:
            raise DataError(
                f"the parts hold {rows:,} rows of {contents[0]['rows']:,}", where=str(self.folder), fix=_AGAIN
            )
        return Merged(self, contents[0]["about"], rows, tuple((str(key), int(size)) for _, key, size in parts))

    def done(self) -> int:
        """Number of complete parts in the folder, and in folders in it."""
        return sum(1 for _ in self.folder.rglob("*.part.jsonl"))

    def remove(self) -> None:
        """Remove the folder, once what was merged is stored elsewhere; a kill leaves at most a hidden folder."""
        aside = self.folder.with_name(f".{self.folder.name.removesuffix(_PARTIAL)}.merged")
        shutil.rmtree(aside, ignore_errors=True)
        with writing(self.folder):
            self.folder.rename(aside)
        shutil.rmtree(aside, ignore_errors=True)

    @contextmanager
    def removed_if_empty(self) -> Iterator[None]:
        """Remove the folder after an error in the block, unless it was there before, or holds results.

        No other process may work in it.
        """
        new = not self.folder.exists()
        try:
            yield
        except BaseException:
            if new and not any(map(_holds_results, self.folder.rglob("*"))):
                shutil.rmtree(self.folder, ignore_errors=True)
            raise

    def _compute(self, key: str, job: Job, rows: Sequence[Any], progress: Progress) -> None:
        with AppendLog(self.folder / f"{key}.log", {"part": key}) as log:
            if self._file(key).exists():  # another process has completed it meanwhile
                log.file.unlink()
                return
            done = sum(int(batch["rows"]) for batch in log)
            for start in range(done, len(rows), job.batch):
                batch = rows[start : start + job.batch]
                log.append({"rows": len(batch), "out": list(job.compute(batch))})
                progress(start + len(batch), None)
            with writing(self.folder):
                log.file.replace(self._file(key))
                sync(self.folder)

    def read(self, key: str, rows: int) -> Iterator[Any]:
        """The results of a part. Raises `DataError` unless it is complete, and of the key and the number of rows."""
        file = self._file(key)
        if not file.exists():
            raise DataError("is missing", where=str(file), fix=_AGAIN)
        found = -1
        with file.open("rb") as lines:
            for number, line in enumerate(lines):
                try:
                    batch = json.loads(line)  # strict when it was written; ten times as fast as `json_object`
                except ValueError as error:
                    raise DataError(f"is not JSON ({error})", where=f"{file}, line {number + 1}") from None
                if not number:
                    found = 0 if batch.get("part") == key else -1
                elif found >= 0:
                    found += int(batch["rows"])
                    yield from batch["out"]
        if found != rows:
            what = f"is damaged: it does not hold the results of {rows:,} rows"
            raise DataError(what, where=str(file), fix=f"Delete it. {_AGAIN}")

    def _shards(self) -> dict[Shard, Path]:
        """The descriptions of the complete shards."""
        return {Shard(*map(int, match.groups())): file for file in self._files() if (match := _SHARD.match(file.name))}

    def _files(self) -> list[Path]:
        return list(self.folder.iterdir()) if self.folder.is_dir() else []

    def _file(self, key: str) -> Path:
        return self.folder / f"{key}.part.jsonl"

    def _shard_file(self, shard: Shard) -> Path:
        return self.folder / f"shard-{shard.number}-of-{shard.count}.json"


@dataclass(frozen=True)
class Merged:
    """The results of a job in the order of its rows; iterating reads them from disk."""

    _parts: Parts
    about: Mapping[str, Any]
    rows: int
    _keys: tuple[tuple[str, int], ...]

    def __iter__(self) -> Iterator[Any]:
        """Raises `DataError` for a part that is missing or damaged."""
        for key, rows in self._keys:
            yield from self._parts.read(key, rows)


def _holds_results(file: Path) -> bool:
    """Whether a file is of a shard, a part, or a part with at least one batch."""
    if file.suffix == ".log":
        return file.read_bytes().count(b"\n") > 1
    return file.name.endswith(".part.jsonl") or _SHARD.match(file.name) is not None


def _description(file: Path) -> dict[str, Any]:
    content = json_object(read_text(file), str(file))
    if content.keys() != {"key", "about", "rows", "parts"}:
        raise DataError("is not the description of a shard", where=str(file), fix=_AGAIN)
    return content


_PARTIAL = ".partial"
_SHARD = re.compile(r"shard-([1-9][0-9]{0,5})-of-([1-9][0-9]{0,5})\.json\Z")
_AGAIN = "Run its shard again; what is complete is not computed again."


def _content_key(job: Job, rows: Sequence[Any]) -> str:
    """sha256 of rows and of all else that their results depend on; one row at a time, since rows may be long."""
    digest = hashlib.sha256(cache_key(job.key, job.batch).encode())
    for row in rows:
        digest.update(json.dumps(row, sort_keys=True, allow_nan=False).encode() + b"\n")
    return digest.hexdigest()


def _cut(job: Job) -> Iterator[list[Any]]:
    iterator = iter(job.rows)
    size = job.part_rows or max(PART_ROWS, job.batch)
    while part := list(islice(iterator, size)):
        yield part


def _shifted(progress: Progress, start: int, of_all: int | None) -> Progress:
    def shifted(done: int, total: int | None, note: str = "") -> None:
        del total
        progress(start + done, of_all, note)

    return shifted
