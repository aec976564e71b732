"""Command line of searchlora. Nothing heavy is imported before a command runs."""

from __future__ import annotations

import re
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

#: Control characters and line or direction changes, which would forge lines of a terminal or a log. Line feeds stay.
_CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")

#: Characters of a path that are shown.
_PATH_CHARACTERS = 200


def main() -> None:
    """Entry point of `searchlora`. An error prints one paragraph; `--debug` adds the traceback."""
    with _orderly_sigterm():
        _main()


def _main() -> None:
    from searchlora.cli.app import app
    from searchlora.errors import SearchloraError

    debug = "--debug" in sys.argv  # anywhere on the command line
    sys.argv = [argument for argument in sys.argv if argument != "--debug"]
    try:
        _check_arguments(sys.argv[1:])
        app(standalone_mode=True)
    except SearchloraError as error:
        if debug:
            raise
        _exit(str(error), error.exit_code)
    except Exception as error:
        if debug:
            raise
        if isinstance(error, ModuleNotFoundError):
            from searchlora.extras import missing_extra

            if (missing := missing_extra(error)) is not None:
                _exit(str(missing), missing.exit_code)
        if isinstance(error, OSError) and error.filename is not None and error.strerror:
            # The system refuses a file: a full disk, a name that is too long, a missing right.
            _exit(f"{_shortened(str(error.filename))}: {error.strerror}. Check the path, its rights and the disk.", 1)
        if isinstance(error, RuntimeError) and str(error).startswith("Symlink loop from"):
            # `Path.resolve` of Python before 3.13; later ones leave it to the system, which refuses the file.
            _exit(f"{_shortened(str(error))}. Give a path whose symbolic links lead to a file.", 1)
        _exit(f"unexpected {type(error).__name__}: {error}\nRun again with --debug for the traceback.", 70)


def _check_arguments(arguments: Sequence[str]) -> None:
    """Refuse an argument that is not UTF-8: no file of results could hold it, and no tokenizer reads it.

    Python reads its bytes as lone surrogates (PEP 383). Raises `UsageError`.
    """
    from searchlora.errors import UsageError

    for number, argument in enumerate(arguments, 1):
        try:
            argument.encode("utf-8")
        except UnicodeEncodeError:
            raise UsageError(
                f"argument {number}, {argument[:_PATH_CHARACTERS]!a}, is not UTF-8 text",
                fix="Write it in UTF-8; rename a file whose name is in another encoding.",
            ) from None


class _Terminated(BaseException):
    """SIGTERM arrived."""


@contextmanager
def _orderly_sigterm() -> Iterator[None]:
    """Let SIGTERM in the block unwind the stack as Ctrl+C does: temporary files are removed and locks released.

    Then the process ends by the signal. A second SIGTERM ends it at once.
    """
    if threading.current_thread() is not threading.main_thread() or signal.getsignal(signal.SIGTERM) != signal.SIG_DFL:
        yield
        return

    def unwind(number: int, _: object) -> None:
        signal.signal(number, signal.SIG_DFL)
        raise _Terminated

    signal.signal(signal.SIGTERM, unwind)
    try:
        yield
    except _Terminated:
        sys.stderr.flush()
        signal.raise_signal(signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def printable(message: str) -> str:
    r"""A message for a terminal: control characters are escaped, and further lines are indented.

    Names and paths come from files and arguments; without this they could forge a line of output.

    Examples:
        >>> printable("a\nsearchlora: done\x1b[2K")
        'a\n  searchlora: done\\x1b[2K'
    """
    escaped = _CONTROL.sub(lambda match: match[0].encode("unicode_escape").decode("ascii"), message)
    return escaped.replace("\n", "\n  ")


def _shortened(path: str) -> str:
    return path if len(path) <= _PATH_CHARACTERS else f"{path[:_PATH_CHARACTERS]}… ({len(path)} characters)"


def _exit(message: str, code: int) -> None:
    print(f"searchlora: {printable(message)}", file=sys.stderr)
    sys.exit(code)
