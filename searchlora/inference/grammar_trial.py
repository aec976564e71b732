"""Trial compilation of grammars of unknown origin, in a process of its own with limits of time and memory.

Compiling a grammar cannot be interrupted, and its cost does not follow from its length: `multipleOf: 999983` takes half
a minute, a long chain of rules overflows the stack and ends the process. A server therefore compiles each new grammar
in a child process first. The child is reused; one that exceeds its limits is killed, and the grammar is refused.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections import OrderedDict
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import Any

from searchlora.errors import EngineBusy, RequestRefused
from searchlora.inference.constrained import llguidance_source
from searchlora.outputs import Grammar

#: Seconds of processor time of a compilation, and seconds until the child is killed whatever it does.
_CPU_SECONDS, _WALL_SECONDS = 2, 20.0

#: The program of the child.
_CHILD = str(Path(__file__).with_name("grammar_child.py"))

#: Grammars that are not compiled again, and children that wait for the next one.
_MAX_PASSED, _MAX_IDLE = 1024, 2


class GrammarTrial:
    """Compiles grammars in child processes. Thread-safe."""

    def __init__(self, tokenizer: Any, stop_id: int) -> None:
        self._head = json.dumps({"tokenizer": tokenizer.backend_tokenizer.to_str(), "stop_id": stop_id})
        self._passed: OrderedDict[bytes, None] = OrderedDict()
        self._idle: list[subprocess.Popen[str]] = []
        self._lock = threading.Lock()
        self._closed = False

    def start(self) -> None:
        """Start a child, so that the first grammar does not wait for it."""
        with suppress(EngineBusy):  # the first grammar tries again
            self._keep(self._new_child())

    def check(self, grammar: Grammar) -> None:
        """Compile a grammar, unless it is one of the last that passed. Whether it is valid is decided later.

        Raises:
            RequestRefused: for a grammar that takes too long, or ends the child process.
            EngineBusy: when no process can be started.
        """
        key = sha256(f"{grammar.kind}\0{grammar.text}".encode("utf-8", "surrogatepass")).digest()
        with self._lock:
            if key in self._passed:
                self._passed.move_to_end(key)
                return
        try:
            source = llguidance_source(grammar)
        except ValueError:
            return
        if not self._compiles(source):
            raise RequestRefused(
                f"the grammar is too complex: compiling it takes more than {_CPU_SECONDS} seconds, or too much memory",
                fix="Shorten it: fewer or shorter repetitions, rules and alternatives, a smaller 'multipleOf'.",
            )
        with self._lock:
            self._passed[key] = None
            if len(self._passed) > _MAX_PASSED:
                self._passed.popitem(last=False)

    def close(self) -> None:
        """End the idle children; those at work end with their grammar."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
        for child in idle:
            _end(child)

    def _compiles(self, source: str) -> bool:
        child = self._child()
        timer = threading.Timer(_WALL_SECONDS, child.kill)
        timer.start()
        try:
            done = _ask(child, json.dumps(source))
        finally:
            timer.cancel()
        if done:
            self._keep(child)
        else:
            _end(child)
        return done

    def _keep(self, child: subprocess.Popen[str]) -> None:
        """Keep a child for the next grammar, or end it."""
        with self._lock:
            kept = not self._closed and len(self._idle) < _MAX_IDLE
            if kept:
                self._idle.append(child)
        if not kept:
            _end(child)

    def _child(self) -> subprocess.Popen[str]:
        with self._lock:
            while self._idle:
                child = self._idle.pop()
                if child.poll() is None:
                    return child
                _end(child)
        return self._new_child()

    def _new_child(self) -> subprocess.Popen[str]:
        try:
            child = subprocess.Popen(
                [sys.executable, "-P", _CHILD, str(_CPU_SECONDS)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                encoding="utf-8",
            )
        except OSError as error:
            raise EngineBusy(f"no process can be started ({error.strerror})", fix="Ask again later.") from None
        if not _ask(child, self._head):
            _end(child)
            raise EngineBusy("the process that tries grammars ended at its start", fix="Ask again later.")
        return child


def _ask(child: subprocess.Popen[str], line: str) -> bool:
    """Send a line to a child and wait for its reply; False if it ended instead."""
    assert child.stdin is not None
    assert child.stdout is not None
    try:
        child.stdin.write(f"{line}\n")
        child.stdin.flush()
        return bool(child.stdout.readline())
    except OSError:
        return False


def _end(child: subprocess.Popen[str]) -> None:
    child.kill()
    with child:  # closes its pipes and waits
        pass
