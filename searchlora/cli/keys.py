"""`searchlora keys`: API keys with roles for a server."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from searchlora.cli.options import JsonOption, argument, example, option

app = typer.Typer(help="Make API keys of a server.", no_args_is_help=True)

_FileOption = Annotated[Path, option("--file FILE", "File of keys, YAML; what `serve --keys` names.")]


@app.command(epilog=example("searchlora keys add shop --role search --file keys.yaml"))
def add(
    name: Annotated[str, argument("NAME", "Name of the key, for logs: who has it.")],
    role: Annotated[
        Literal["read", "search", "grade", "operate"],
        option("--role read|search|grade|operate", "What it may do; each role may do what those before it may."),
    ],
    file: _FileOption,
) -> None:
    """Add a key to a file, and print it. The file has only its sha256, so it cannot be printed again."""
    from searchlora.server.api.keys import add_key

    typer.echo(add_key(file, name, role))


@app.command("list", epilog=example("searchlora keys list --file keys.yaml"))
def list_(file: _FileOption, as_json: JsonOption = False) -> None:
    """List the names and roles of the keys in a file."""
    from searchlora.cli.terminal import print_json
    from searchlora.files.yaml_text import read_settings
    from searchlora.server.api.keys import KeyFile

    keys = read_settings(file, KeyFile).keys
    if as_json:
        print_json({name: {"role": key.role, "added": key.added} for name, key in keys.items()})
        return
    for name, key in keys.items():
        typer.echo(f"{name}: {key.role}, added {key.added or 'by hand'}")


@app.command(epilog=example("searchlora keys remove shop --file keys.yaml"))
def remove(name: Annotated[str, argument("NAME", "Name of the key.")], file: _FileOption) -> None:
    """Withdraw a key. Servers that run refuse it from the next request on."""
    from searchlora.server.api.keys import remove_key

    remove_key(file, name)
    typer.echo(f"Removed {name}")
