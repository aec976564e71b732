"""The command line: one file per group of verbs, nothing heavy imported before a verb runs."""

from __future__ import annotations

import sys


def main() -> None:
    """Entry point of `searchlora`. Errors end in one paragraph and a non-zero exit code, never in a traceback."""
    from searchlora.cli.app import app
    from searchlora.errors import SearchloraError

    debug = "--debug" in sys.argv  # wherever it stands, since people put it at the end
    sys.argv = [argument for argument in sys.argv if argument != "--debug"]
    try:
        app(standalone_mode=True)
    except SearchloraError as error:
        if debug:
            raise
        _complain(str(error), error.exit_code)
    except Exception as error:
        if debug:
            raise
        if isinstance(error, ModuleNotFoundError):
            from searchlora.extras import missing_extra

            if (missing := missing_extra(error)) is not None:
                _complain(str(missing), missing.exit_code)
        _complain(f"unexpected {type(error).__name__}: {error}\nRun again with --debug for the traceback.", 70)


def _complain(message: str, code: int) -> None:
    print(f"searchlora: {message}", file=sys.stderr)
    sys.exit(code)
