"""Commands and options with a new name: the old one is accepted for one release."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence

from searchlora.renamed import RenamedWarning, warn_renamed

#: Command -> old option -> new option.
RENAMED_OPTIONS: dict[str, dict[str, str]] = {
    "data build": {"--shares": "--split-ratios"},
    "grade serve": {"--runs": "--pool"},
    "evaluate": {"--beside": "--compare-with", "--beside-encoder": "--compare-with-encoder"},
    "serve": {
        "--adapters": "--max-loras",
        "--batch-rows": "--max-num-seqs",
        "--grace": "--shutdown-timeout",
        "--max-rank": "--max-lora-rank",
        "--name": "--allowed-host",
        "--per-caller": "--per-client",
        "--seconds": "--timeout",
        "--waiting-per-caller": "--waiting-per-client",
    },
}

#: Old command -> new command.
RENAMED_COMMANDS = {"mix-qrels": "merge-qrels"}


def with_new_options(arguments: Sequence[str]) -> list[str]:
    """The arguments of a command line with new names of commands and options; a warning on stderr names each.

    Examples:
        >>> with_new_options(["evaluate", "judge@2", "--compare-with=judge@1"])
        ['evaluate', 'judge@2', '--compare-with=judge@1']
    """
    if arguments and (command := RENAMED_COMMANDS.get(arguments[0])):
        warn_renamed(arguments[0], command)
        arguments = [command, *arguments[1:]]
    names = next(
        (
            renamed
            for command, renamed in RENAMED_OPTIONS.items()
            if list(arguments[: len(command.split())]) == command.split()
        ),
        {},
    )
    changed = []
    for number, argument in enumerate(arguments):
        option, equals, value = argument.partition("=")
        if option in names and "--" not in arguments[:number]:
            warn_renamed(option, names[option])
            argument = f"{names[option]}{equals}{value}"
        changed.append(argument)
    return changed


def show_warnings_of_renamed() -> None:
    """Print `RenamedWarning` as a line on stderr, without the place in the source that Python shows."""
    default = warnings.showwarning

    def show(message, category, filename, lineno, file=None, line=None):  # type: ignore[no-untyped-def]
        if issubclass(category, RenamedWarning):
            print(f"searchlora: {message}", file=sys.stderr)
        else:
            default(message, category, filename, lineno, file, line)

    warnings.showwarning = show
    warnings.simplefilter("always", RenamedWarning)
