"""`searchlora serve`: a base model, its adapters and pipelines behind an HTTP API, and the playground."""

from __future__ import annotations

import inspect
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

import typer

from searchlora.cli.options import DeviceOption, argument, option
from searchlora.errors import UsageError
from searchlora.server.api.config import ServeConfig, settings_by_key

ConfigOption = Annotated[
    Path | None,
    typer.Option(
        "--config", metavar="FILE", help="YAML file with settings, see the reference. The options below override it."
    ),
]


def _parameters() -> Iterator[inspect.Parameter]:
    """The parameters of the command: a file, a device, and an option for each setting."""

    def parameter(name: str, annotation: Any, default: Any = None) -> inspect.Parameter:
        return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)

    yield parameter("context", typer.Context, inspect.Parameter.empty)
    yield parameter("config", ConfigOption)
    yield parameter("_device", DeviceOption)
    for key, (kind, setting, default) in settings_by_key().items():
        option = typer.Option(
            setting.option or f"--{key.replace('_', '-')}",
            metavar=setting.metavar or None,
            min=setting.min,
            help=setting.help,
            envvar=setting.variable,
        )
        if get_origin(kind) is tuple:
            kind, default = list[get_args(kind)[0]], list(default)  # type: ignore[misc]  # a type at run time
        elif any(get_origin(part) is dict for part in get_args(kind)):  # a mapping is given as text
            kind = str | None
        yield parameter(key, Annotated[kind, option], default)


def serve(context: typer.Context, config: Path | None, _device: str | None, **options: Any) -> None:
    """Serve a base model, its adapters and pipelines by HTTP: OpenAI's API, search, and the playground at `/`."""
    from searchlora.server.api.config import read_config

    given = {key: value for key, value in options.items() if _is_given(context, key)}
    settings = read_config(config, given)
    variable = settings_by_key()["api_keys"][1].variable
    if not settings.api_keys and variable is not None and os.environ.get(variable) is not None:
        raise UsageError(f"{variable} is set and holds no key", fix="Set it to a key, or unset it to require none.")
    start(settings)


def start(settings: ServeConfig) -> None:
    """Serve with these settings until SIGINT or SIGTERM."""
    from searchlora.server.api.serve import make_service
    from searchlora.server.api.serve import serve as run_server
    from searchlora.server.http import address, bind, is_loopback

    with bind(settings.host, settings.port) as listening:
        service = make_service(settings)
        if not settings.api_keys and settings.keys is None and not is_loopback(settings.host):
            typer.echo("warning: there is no API key: everyone who reaches this address can use the server.", err=True)
        typer.echo(f"Serving {service.base} and its adapters at {address(listening)}v1. Ctrl+C stops.")
        if settings.pipelines:
            typer.echo(f"Search by {', '.join(service.pipelines.names)} in a browser: {address(listening)}")
        run_server(service, listening)


serve.__signature__ = inspect.Signature(list(_parameters()))  # type: ignore[attr-defined]


def _is_given(context: typer.Context, name: str) -> bool:
    """Whether an option is on the command line or in its environment variable; else its value is the default."""
    source = context.get_parameter_source(name)
    return source is not None and source.name in ("COMMANDLINE", "ENVIRONMENT")


def add_key(
    name: Annotated[str, argument("NAME", "Name of the key, for logs: who has it.")],
    role: Annotated[Literal["read", "write"], option("--role read|write", "write: also save, load and roll back.")],
    file: Annotated[Path, option("--file FILE", "File of keys, for `serve --keys`.")],
) -> None:
    """Add an API key to a file, and print it. The file has only its sha256; delete the line to withdraw the key."""
    from searchlora.files import atomic_text, read_text
    from searchlora.server.api.keys import LINE, read_keys, sha256_of

    key = secrets.token_urlsafe(32)
    line = f"{name} {role} {sha256_of(key.encode())}"
    if not LINE.fullmatch(line) or (file.exists() and name in [known.name for known in read_keys(file)]):
        raise UsageError(f"'{name}' is taken, or has other characters than letters, digits, '.', '_' and '-'")
    lines = read_text(file).splitlines() if file.exists() else []
    with atomic_text(file) as out:
        out.writelines(f"{each}\n" for each in [*lines, line])
    typer.echo(key)
