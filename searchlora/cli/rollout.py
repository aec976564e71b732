"""`searchlora rollout`: give a version a growing share of the requests, and take it back when a guardrail is broken."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from searchlora.cli.options import StoreOption, argument, example, option

if TYPE_CHECKING:
    from searchlora.experiments.rollout import RolloutLook

app = typer.Typer(help="Roll a version out by steps, watched by guardrails.", no_args_is_help=True)

_NameArgument = Annotated[str, argument("NAME", "Name of the adapter.")]
_AliasOption = Annotated[str, option("--alias ALIAS", "Alias that is rolled out.")]
_EventsOption = Annotated[
    str, option("--events PLACE", "What `serve --events` names: a folder, or postgresql://user@host/database.")
]
_ReasonOption = Annotated[str | None, option("--reason REASON", "Why, for the history.")]


@app.command(epilog=example("searchlora rollout start shop-rewriter@4 --events events/ --policy rollout.yaml"))
def start(
    candidate: Annotated[str, argument("ADAPTER", "Exact version, name@4.")],
    events: _EventsOption,
    alias: _AliasOption = "production",
    policy: Annotated[Path | None, option("--policy FILE", "Rollout policy, YAML. Default: its defaults.")] = None,
    reason: _ReasonOption = None,
    force: Annotated[
        str | None,
        option(
            "--force REASON", "Start it even if a promotion policy decides about the alias; the reason is recorded."
        ),
    ] = None,
    store: StoreOption = None,
) -> None:
    """Give a version the first share of the requests. Servers with --events look at its guardrails and go on."""
    from searchlora.adapters import Store
    from searchlora.cli.events import opened
    from searchlora.experiments.rollout import RolloutPolicy, start_rollout
    from searchlora.files.yaml_text import read_settings

    rules = read_settings(policy, RolloutPolicy) if policy is not None else RolloutPolicy()
    with opened(events) as log:
        typer.echo(str(start_rollout(Store(store), candidate, alias, log, rules, reason=reason, force=force)))


@app.command(epilog=example("searchlora rollout look shop-rewriter --events events/"))
def look(
    name: _NameArgument, events: _EventsOption, alias: _AliasOption = "production", store: StoreOption = None
) -> None:
    """Look at the guardrails once: advance, roll back or wait. Servers with --events do so by themselves."""
    from searchlora.adapters import Store
    from searchlora.cli.events import opened
    from searchlora.experiments.rollout import look as verb

    with opened(events) as log:
        _print_look(verb(Store(store), name, alias, log))


@app.command(epilog=example("searchlora rollout stop shop-rewriter --reason 'a user complained'"))
def stop(
    name: _NameArgument, alias: _AliasOption = "production", reason: _ReasonOption = None, store: StoreOption = None
) -> None:
    """Take the candidate's share back."""
    from searchlora.adapters import Store
    from searchlora.experiments.rollout import stop_rollout

    typer.echo(str(stop_rollout(Store(store), name, alias, reason)))


def _print_look(found: RolloutLook) -> None:
    for each in found.guardrails:
        mark = "BROKEN" if each.is_harmed else "safe" if each.is_safe else "open"
        typer.echo(f"{each.name:>8} {mark:>6}  {each}")
    said = {"waiting": "waits at", "rolled back": "was rolled back to"}.get(found.outcome, "goes on with")
    typer.echo(f"{found.candidate} {said} {found.share:.0%} of the requests.")
