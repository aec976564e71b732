"""Judging of many pairs in bounded memory, in shards, with kills, and on Ray.

    python -m benchmarks.bulk_judging [--pairs 1000000] [--kills 5] [--try]

The judge is a random Llama of two layers and 32 dimensions, so that the time is that of everything around the model. A
pair is one of 100 documents of a topic; pairs are in random order. Four ways judge the same pairs by the command line:

* a tenth alone: a tenth of the pairs, in one process;
* alone: all pairs in one process;
* four shards, killed: `--shard 1/4` to `4/4`, two at a time, of which random ones are killed at random moments and
  started again, then `merge`;
* Ray, killed: `--shards 4 --on ray`, on this machine, one of whose workers is killed; only where Ray is installed.

A way that was measured is not measured again after an interruption: its outputs stay in `benchmarks/work`.

Memory is the peak of the resident memory of the largest process. The qrels and the probabilities of all ways must be
the same bytes, and those of the tenth their own.
"""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

import psutil

from benchmarks.common import WORK, as_called, parser, remembered, save_figures, single_row

SHARDS = 4
AT_ONCE = 2
_POLL = 0.05  # seconds


class Process(Protocol):
    """A process, as `subprocess.Popen` has it."""

    pid: int

    def poll(self) -> int | None: ...
    def kill(self) -> None: ...


#: Starts `searchlora` with some arguments.
Start = Callable[..., Process]


def main() -> None:
    arguments = parser("bulk_judging")
    arguments.add_argument("--pairs", type=int, default=1_000_000)
    arguments.add_argument("--kills", type=int, default=5)
    arguments.add_argument("--try", dest="trial", action="store_true", help="print only")
    options = arguments.parse_args()
    folder = WORK / "bulk_judging" / ("trial" if options.trial else str(options.pairs))
    if options.trial:
        shutil.rmtree(folder, ignore_errors=True)
    rows, more = measure(folder, options.pairs, options.kills, _start, ray=find_spec("ray") is not None)
    print(json.dumps({"rows": rows, **more}, indent=1))
    if not options.trial:
        save_figures("bulk_judging", rows, [], more, module=as_called("bulk_judging"))
        shutil.rmtree(folder)


def measure(
    folder: Path, pairs: int, kills: int, start: Start, *, ray: bool
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Rows of figures of all ways, and what else they show. Ways that were measured in `folder` before are not again.

    Raises:
        RuntimeError: if a command fails.
    """
    ways = {"a tenth alone": pairs // 10, "alone": pairs, "four shards, killed": pairs}
    ways |= {"Ray, killed": pairs} if ray else {}
    outs = {way: folder / way.replace(" ", "_").replace(",", "") / "qrels.txt" for way in ways}
    before = 0.0  # seconds of the way before

    def compute(keys: Sequence[str]) -> list[dict[str, Any]]:
        return [_measure_way(way, ways[way], outs[way], start, kills, before) for way in keys]

    known: dict[str, dict[str, Any]] = {}
    for way in ways:
        known |= remembered(folder / "ways.jsonl", [way], compute)
        print(way, known[way], flush=True)
        before = known[way]["seconds"]
    rows = [
        single_row(way, measured, value)
        for way, figures in known.items()
        for measured, value in {
            "s": figures["seconds"],
            "pairs/s": ways[way] / figures["seconds"],
            "peak memory, MB": figures["peak"] / 1e6,
        }.items()
    ]
    written = {
        way: [Path(f"{out}{end}").read_bytes() for end in ("", ".probabilities.jsonl")] for way, out in outs.items()
    }
    more = {
        "pairs": pairs,
        "kills": {way: figures["kills"] for way, figures in known.items()},
        "equal bytes": {way: written[way] == written["alone"] for way in ways if ways[way] == pairs},
        "lines": len(written["alone"][0].splitlines()),
        "seconds until a quarter, a half, three quarters and all parts were complete, alone": known["alone"][
            "quarters"
        ],
    }
    return rows, more | ({} if ray else {"Ray": "not installed"})


def _measure_way(way: str, size: int, out: Path, start: Start, kills: int, seconds: float) -> dict[str, Any]:
    """Seconds, peak of memory in bytes, kills and, of a process alone, the seconds until quarters were complete.

    Args:
        seconds: What the way before took.
    """
    inputs = out.parents[1] / str(size)
    command = [*write_inputs(inputs, size), "--out", str(out)]
    shutil.rmtree(out.parent, ignore_errors=True)
    out.parent.mkdir()
    begun, peak, killed = time.time(), 0, 0
    times: list[float] = []
    if way.startswith("four"):
        killed, peak = _killed_shards(start, command, kills, seconds)
        peak = max(peak, _to_end(start("merge", str(out))))
    elif way.startswith("Ray"):
        killed, peak = _killed_worker(start(*command, "--shards", str(SHARDS), "--on", "ray"))
    else:
        peak = _to_end(start(*command), lambda: _note_parts(out, times))
    quarters = [round(times[len(times) * part // 4 - 1] - begun, 1) for part in range(1, 5)] if times else []
    return {"seconds": time.time() - begun, "peak": peak, "kills": killed, "quarters": quarters}


def write_inputs(folder: Path, pairs: int) -> list[str]:
    """Write topics, documents, pairs and a random base; the `judge` command without its output."""
    from searchlora.testing import build_tiny_base

    folder.mkdir(parents=True, exist_ok=True)
    topics, documents = -(-pairs // 100), max(200, pairs // 10)
    with (folder / "topics.jsonl").open("w") as out:
        out.writelines(json.dumps({"id": f"t{n}", "query": f"a tent of kind {n}"}) + "\n" for n in range(topics))
    with (folder / "corpus.jsonl").open("w") as out:
        rows = ({"id": f"d{n}", "title": f"Tent {n}", "text": f"It sleeps {n}."} for n in range(documents))
        out.writelines(json.dumps(row) + "\n" for row in rows)
    numbers = list(range(pairs))
    random.Random(0).shuffle(numbers)
    with (folder / "pairs.jsonl").open("w") as out:
        for number in numbers:
            topic, place = divmod(number, 100)
            row = {"topic": f"t{topic}", "document": f"d{(topic * 37 + place) % documents}"}
            out.write(json.dumps(row) + "\n")
    base = build_tiny_base(folder / "base")
    files = [f"--{name}={folder / file}" for name, file in (("topics", "topics.jsonl"), ("pairs", "pairs.jsonl"))]
    store = f"--store={folder / 'store'}"
    return ["judge", f"--base={base}", "--task=judgment", *files, f"--corpus={folder / 'corpus.jsonl'}", store]


def _start(*arguments: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "searchlora", *arguments]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL)


def _peak(pid: int) -> int:
    """Largest resident memory of a process so far in bytes; 0 if it has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
    except OSError:
        return 0
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM")), 0)


def _to_end(process: Process, look: Callable[[], object] = lambda: None) -> int:
    """The peak of a process that must end well; `look` is called while it works."""
    peak = 0
    while process.poll() is None:
        peak = max(peak, _peak(process.pid))
        look()
        time.sleep(_POLL)
    _check(process)
    return peak


def _check(process: Process) -> None:
    if process.poll():
        raise RuntimeError(f"a command ended with code {process.poll()}")


def _note_parts(out: Path, times: list[float]) -> None:
    """Note the time once for each part that is complete."""
    complete = sum(1 for _ in Path(f"{out}.partial").glob("*.part.jsonl"))
    times.extend([time.time()] * (complete - len(times)))


def _killed_shards(start: Start, command: Sequence[str], kills: int, seconds: float) -> tuple[int, int]:
    """Compute all shards, with kills at random moments; the number of kills, and the largest peak."""
    random_ = random.Random(1)

    def pause() -> float:
        return random_.uniform(0.5, 1.5) * seconds / 2 / (kills + 1)

    waiting, running = list(range(1, SHARDS + 1)), {}
    done = peak = 0
    next_kill = time.time() + pause()
    while waiting or running:
        while waiting and len(running) < AT_ONCE:
            number = waiting.pop(0)
            running[number] = start(*command, "--shard", f"{number}/{SHARDS}")
        if done < kills and time.time() > next_kill:
            number = random_.choice(list(running))
            process = running.pop(number)
            if process.poll() is None:
                process.kill()
                while process.poll() is None:
                    time.sleep(_POLL)
                done += process.poll() == -9
                waiting.insert(0, number)
            else:
                _check(process)
            next_kill = time.time() + pause()
        for number, process in list(running.items()):
            peak = max(peak, _peak(process.pid))
            if process.poll() is not None:
                _check(process)
                del running[number]
        time.sleep(_POLL)
    return done, peak


def _killed_worker(process: Process) -> tuple[int, int]:
    """Run to the end; a worker of Ray is killed once parts of the job are there."""
    done = peak = 0
    begun: dict[int, float] = {}
    while process.poll() is None:
        for pid in _workers(process.pid):
            peak = max(peak, _peak(pid))
            begun.setdefault(pid, time.time())
            if not done and time.time() - begun[pid] > 15:
                psutil.Process(pid).kill()
                done += 1
        time.sleep(1.0)
    _check(process)
    return done, peak


def _workers(driver: int) -> list[int]:
    """The workers of Ray that compute a shard."""
    workers = []
    try:
        for process in psutil.Process(driver).children(recursive=True):
            if process.name().startswith("ray::_run") or " ".join(process.cmdline()).startswith("ray::_run"):
                workers.append(process.pid)
    except psutil.Error:  # it has ended meanwhile
        pass
    return workers


if __name__ == "__main__":
    main()
