"""`searchlora serve`."""

from __future__ import annotations

import os
from enum import StrEnum
from pathlib import Path

import typer

from searchlora.errors import UsageError

_KEYS = "SEARCHLORA_API_KEY"


class Precision(StrEnum):
    """Of the computation."""

    bf16 = "bf16"
    fp32 = "fp32"


class Quantization(StrEnum):
    """Of the base's weights."""

    none = "none"
    nf4 = "nf4"


def serve(
    base: str = typer.Option("smollm2-135m-instruct-q4_1", "--base", help="The base LLM, as for training."),
    store: Path | None = typer.Option(None, "--store", help="The adapter store; SEARCHLORA_STORE or ./store."),
    encoder: list[str] = typer.Option([], "--encoder", help="An encoder for /v1/embeddings, several times."),
    load: list[str] = typer.Option([], "--load", help="An adapter to load before the first request, several times."),
    host: str = typer.Option("127.0.0.1", "--host", help="Another address lets other machines in."),
    port: int = typer.Option(8000, "--port", min=0, max=65535, help="0: any free one."),
    name: list[str] = typer.Option([], "--name", help="A host name that requests without a key may come by."),
    api_key: list[str] = typer.Option(
        [],
        "--api-key",
        envvar=_KEYS,
        help="Asked of every request; several: any of them. Better in the"
        " environment than here, where other users of the machine see it.",
    ),
    quantization: Quantization = typer.Option(Quantization.none, "--quantization"),
    precision: Precision = typer.Option(Precision.bf16, "--precision"),
    adapters: int = typer.Option(16, "--adapters", min=1, help="Adapters that are loaded at once."),
    batch_rows: int = typer.Option(32, "--batch-rows", min=1, help="Answers that are written at once."),
    batch_tokens: int = typer.Option(
        8192, "--batch-tokens", min=1, help="Rows read or scored at once, by the longest."
    ),
    cache_tokens: int = typer.Option(65536, "--cache-tokens", min=1, help="Rows that write, by the longest."),
    prefix_tokens: int = typer.Option(16384, "--prefix-tokens", min=0, help="Kept of prompts that begin alike."),
    waiting: int = typer.Option(1024, "--waiting", min=1, help="Requests in the queue; 503 beyond."),
    seconds: float = typer.Option(120.0, "--seconds", min=0.001, help="Until a request must be done; 504 beyond."),
    grace: float = typer.Option(60.0, "--grace", min=0, help="Seconds to finish what is in flight when it is stopped."),
    per_minute: int | None = typer.Option(None, "--per-minute", min=1, help="POSTs of one caller; 429 beyond."),
    max_body: int = typer.Option(1_000_000, "--max-body", min=1, help="Bytes of a request; 413 beyond."),
    max_prompt: int | None = typer.Option(None, "--max-prompt", min=1, help="Tokens of a prompt; 400 beyond."),
    max_answer: int = typer.Option(1024, "--max-answer", min=1, help="Tokens of an answer; 400 for more."),
) -> None:
    """Serve a base and its adapters over HTTP, in OpenAI's format, until Ctrl+C or SIGTERM."""
    from searchlora.adapters.store import Store
    from searchlora.server.api.serve import make_service, max_connections
    from searchlora.server.api.serve import serve as run_server
    from searchlora.server.api.service import Settings
    from searchlora.server.http import address, bind, is_loopback

    if not api_key and os.environ.get(_KEYS) is not None:
        raise UsageError(f"{_KEYS} is set and holds no key", fix="Put a key into it, or unset it to ask for none.")
    connections = max_connections()
    settings = Settings(
        api_keys=tuple(api_key),
        host_names=(host, *name),
        max_body_bytes=max_body,
        max_prompt_tokens=max_prompt,
        max_answer_tokens=max_answer,
        requests_per_minute=per_minute,
        timeout=seconds,
        max_waiting=waiting,
        max_active_requests=min(Settings.max_active_requests, connections or Settings.max_active_requests),
    )
    with bind(host, port) as listening:
        service = make_service(
            base,
            Store(store),
            settings,
            encoders=encoder,
            load=load,
            quantization=quantization.value,
            precision=precision.value,
            adapters=adapters,
            batch_rows=batch_rows,
            batch_tokens=batch_tokens,
            cache_tokens=cache_tokens,
            prefix_tokens=prefix_tokens,
        )
        if not api_key and not is_loopback(host):
            typer.echo("warning: there is no API key, so whoever reaches this address may ask.", err=True)
        typer.echo(f"Serving {service.base} and its adapters at {address(listening)}v1. Ctrl+C stops.")
        run_server(service, listening, grace=grace)
