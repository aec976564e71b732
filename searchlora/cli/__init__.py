"""Command line of searchlora. Nothing heavy is imported before a command runs."""

from __future__ import annotations

import sys


def main() -> None:
    """Entry point of `searchlora`. An error prints one paragraph; `--debug` adds the traceback."""
    from searchlora.cli.app import app
    from searchlora.errors import SearchloraError

    debug = "--debug" in sys.argv  # anywhere on the command line
    sys.argv = [argument for argument in sys.argv if argument != "--debug"]
    try:
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
        _exit(f"unexpected {type(error).__name__}: {error}\nRun again with --debug for the traceback.", 70)


def _exit(message: str, code: int) -> None:
    print(f"searchlora: {message}", file=sys.stderr)
    sys.exit(code)
