"""The child process of `grammar_trial`: it reads a tokenizer, then compiles a grammar for each line that it reads.

A program of its own, which imports nothing of searchlora, so that it starts in a fraction of a second.
"""

from __future__ import annotations

import json
import signal
import sys
import threading

#: Address space of the process, tokenizer included.
_MAX_BYTES = 3 << 30

#: Stack of the thread that compiles; smaller than that of any thread that compiles in the server.
_STACK_BYTES = 1 << 20


def _limit(cpu_seconds: float | None) -> None:
    """Limit this process: its memory and core file, or the processor time until it is killed."""
    try:
        import resource
    except ImportError:  # Windows: the parent's time limit remains
        return
    if cpu_seconds is None:
        resource.setrlimit(resource.RLIMIT_AS, (_MAX_BYTES, _MAX_BYTES))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        return
    usage = resource.getrusage(resource.RUSAGE_SELF)
    seconds = int(usage.ru_utime + usage.ru_stime + cpu_seconds) + 1
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, resource.getrlimit(resource.RLIMIT_CPU)[1]))


def main(cpu_seconds: float) -> None:
    """Read a tokenizer, then grammars, and answer each line when it is done; a grammar may take so much processor
    time.
    """
    from llguidance import LLMatcher, LLTokenizer

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # an interrupt in the terminal is the server's to handle
    _limit(None)
    head = json.loads(sys.stdin.readline())
    tokens = LLTokenizer(head["tokenizer"], eos_token=head["stop_id"])
    print("ready", flush=True)

    def compile_and_mask(source: str) -> None:
        matcher = LLMatcher(tokens, source, log_level=0)
        matcher.deep_copy().compute_bitmask()
        matcher.compute_bitmask()

    threading.stack_size(_STACK_BYTES)
    for line in sys.stdin:
        _limit(cpu_seconds)
        thread = threading.Thread(target=compile_and_mask, args=(json.loads(line),))
        thread.start()
        thread.join()
        print("done", flush=True)


if __name__ == "__main__":
    main(float(sys.argv[1]))
