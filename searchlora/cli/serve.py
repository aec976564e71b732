"""`searchlora serve`: a base model, its adapters and pipelines behind an HTTP API, and the playground."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from searchlora.cli.options import (
    CACHE_MB,
    CacheLimitOption,
    CacheOption,
    DeviceOption,
    HostOption,
    ParametersOption,
    PortOption,
    StoreOption,
    TasksOption,
    cache_of,
)
from searchlora.errors import UsageError

if TYPE_CHECKING:
    from searchlora.inference.settings import LocalSettings

_API_KEY_VARIABLE = "SEARCHLORA_API_KEY"


def serve(
    context: typer.Context,
    base: Annotated[
        str,
        typer.Option(
            "--base",
            metavar="MODEL",
            help="Base model: hub id, folder, GGUF file, catalogue name, or NAME@VERSION of a fully fine-tuned model.",
        ),
    ] = "smollm2-135m-instruct-q4_1",
    store: StoreOption = None,
    tasks: TasksOption = None,
    _device: DeviceOption = None,
    encoder: Annotated[
        list[str], typer.Option("--encoder", metavar="MODEL", help="Encoder for /v1/embeddings; repeatable.")
    ] = [],
    load: Annotated[
        list[str], typer.Option("--load", metavar="ADAPTER", help="Adapter to load at start; repeatable.")
    ] = [],
    pipeline: Annotated[
        list[str],
        typer.Option(
            "--pipeline",
            metavar="PIPELINE",
            help="Pipeline for /v1/search and the playground: a YAML file or a built-in one; repeatable.",
        ),
    ] = [],
    corpus: Annotated[
        list[Path],
        typer.Option(
            "--corpus",
            metavar="FILE",
            help="Documents: a file or an index folder. Once for all pipelines, or once for each, in their order."
            " Default: the corpus that each pipeline names.",
        ),
    ] = [],
    parameters: ParametersOption = [],
    cache: CacheOption = None,
    cache_mb: CacheLimitOption = CACHE_MB,
    grades: Annotated[
        Path | None,
        typer.Option(
            "--grades", metavar="FOLDER", help="Folder for the grades that people give to hits in the playground."
        ),
    ] = None,
    topics: Annotated[
        Path | None,
        typer.Option(
            "--topics", metavar="FILE", help="Topics of a test collection, on which the playground compares systems."
        ),
    ] = None,
    qrels: Annotated[
        Path | None, typer.Option("--qrels", metavar="FILE", help="Relevance judgments of the topics (qrels).")
    ] = None,
    host: HostOption = "127.0.0.1",
    port: PortOption = 8000,
    name: Annotated[
        list[str],
        typer.Option(
            "--name", metavar="HOST", help="Another host name under which this server is reached; repeatable."
        ),
    ] = [],
    trusted_proxy: Annotated[
        list[str],
        typer.Option(
            "--trusted-proxy",
            metavar="ADDRESS",
            help="Address or network of a reverse proxy whose X-Forwarded-For names the client; repeatable.",
        ),
    ] = [],
    api_key: Annotated[
        list[str],
        typer.Option(
            "--api-key",
            metavar="KEY",
            envvar=_API_KEY_VARIABLE,
            help="API key that requests must carry; repeatable. Prefer the environment variable: other users of the"
            " machine can read the command line.",
        ),
    ] = [],
    engine: Annotated[
        str | None,
        typer.Option(
            "--engine",
            metavar="SETTINGS",
            help="Settings of the engine: a YAML file, or '{quantization: nf4}'. The options below take precedence.",
        ),
    ] = None,
    quantization: Annotated[
        Literal["none", "nf4"],
        typer.Option("--quantization", metavar="none|nf4", help="Quantisation of the base's weights."),
    ] = "none",
    precision: Annotated[
        Literal["bf16", "fp32"],
        typer.Option("--precision", metavar="bf16|fp32", help="Precision of the computation."),
    ] = "bf16",
    adapters: Annotated[
        int,
        typer.Option("--adapters", metavar="N", min=1, help="LoRA slots: number of adapters that are loaded at once."),
    ] = 16,
    max_rank: Annotated[
        int, typer.Option("--max-rank", metavar="N", min=1, help="Maximum rank of an adapter; a larger one is refused.")
    ] = 1024,
    adapter_bytes: Annotated[
        int,
        typer.Option(
            "--adapter-bytes", metavar="BYTES", min=1, help="Maximum memory for the weights of all loaded adapters."
        ),
    ] = 4 << 30,
    batch_invariant: Annotated[
        bool,
        typer.Option(
            "--batch-invariant",
            help="Make every answer independent of the other requests, to the last bit; it costs speed.",
        ),
    ] = False,
    batch_rows: Annotated[
        int, typer.Option("--batch-rows", metavar="N", min=1, help="Rows of one batch, for decoding and prefill.")
    ] = 32,
    batch_tokens: Annotated[
        int, typer.Option("--batch-tokens", metavar="TOKENS", min=1, help="Rows times longest row of one prefill.")
    ] = 8192,
    cache_tokens: Annotated[
        int, typer.Option("--cache-tokens", metavar="TOKENS", min=1, help="KV cache: rows times longest sequence.")
    ] = 65536,
    prefix_tokens: Annotated[
        int, typer.Option("--prefix-tokens", metavar="TOKENS", min=0, help="Prefix cache shared by prompts.")
    ] = 16384,
    waiting: Annotated[
        int,
        typer.Option(
            "--waiting", metavar="N", min=1, help="Maximum number of requests in the queue; further requests get 503."
        ),
    ] = 1024,
    waiting_per_caller: Annotated[
        int | None,
        typer.Option(
            "--waiting-per-caller",
            metavar="N",
            min=1,
            help="Maximum number of queued requests of one caller; further requests get 503. Default: a quarter of"
            " --waiting, at least 256.",
        ),
    ] = None,
    per_caller: Annotated[
        int | None,
        typer.Option(
            "--per-caller",
            metavar="N",
            min=1,
            help="Maximum number of requests of one caller in progress; further requests get 429. Default: half of"
            " --waiting.",
        ),
    ] = None,
    seconds: Annotated[
        float,
        typer.Option("--seconds", metavar="SECONDS", min=0.001, help="Time limit of a request; a slower one gets 504."),
    ] = 120.0,
    grace: Annotated[
        float,
        typer.Option(
            "--grace",
            metavar="SECONDS",
            min=0,
            help="Time that requests in progress get to finish when the server stops.",
        ),
    ] = 60.0,
    per_minute: Annotated[
        int | None,
        typer.Option(
            "--per-minute",
            metavar="N",
            min=1,
            help="Maximum number of POST requests of one caller per minute; further requests get 429.",
        ),
    ] = None,
    max_body: Annotated[
        int,
        typer.Option(
            "--max-body", metavar="BYTES", min=1, help="Maximum size of a request body; a larger one gets 413."
        ),
    ] = 1_000_000,
    max_prompt: Annotated[
        int,
        typer.Option(
            "--max-prompt", metavar="TOKENS", min=1, help="Maximum length of a prompt; a longer one gets 400."
        ),
    ] = 8192,
    max_answer: Annotated[
        int,
        typer.Option(
            "--max-answer", metavar="TOKENS", min=1, help="Maximum length of an answer; a request for more gets 400."
        ),
    ] = 1024,
    access_log: Annotated[
        str | None,
        typer.Option(
            "--access-log",
            metavar="FILE",
            help="Append a JSON line per request: time, caller, method, path, status, seconds; `-` is standard output.",
        ),
    ] = None,
) -> None:
    """Serve a base model, its adapters and pipelines by HTTP: OpenAI's API, search, and the playground at `/`."""
    from searchlora.adapters.store import Store
    from searchlora.server.api.access_log import AccessLog
    from searchlora.server.api.serve import check_proxies, make_service, max_connections
    from searchlora.server.api.serve import serve as run_server
    from searchlora.server.api.service import Settings
    from searchlora.server.grading.search_grades import SearchGrades
    from searchlora.server.http import address, bind, is_loopback

    if not api_key and os.environ.get(_API_KEY_VARIABLE) is not None:
        raise UsageError(
            f"{_API_KEY_VARIABLE} is set and holds no key", fix="Set it to a key, or unset it to require none."
        )
    check_proxies(trusted_proxy)
    pipelines = _with_corpora(pipeline, corpus)
    if grades is None and (topics is None) != (qrels is None):
        raise UsageError(
            "topics and judgments measure together", where="--topics, --qrels", fix="Give both, or --grades FOLDER."
        )
    flags = {
        "quantization": quantization,
        "precision": precision,
        "adapters": adapters,
        "max_rank": max_rank,
        "adapter_bytes": adapter_bytes,
        "batch_invariant": batch_invariant,
        "batch_rows": batch_rows,
        "batch_tokens": batch_tokens,
        "cache_tokens": cache_tokens,
        "prefix_tokens": prefix_tokens,
    }
    local = _engine(engine, flags, {name for name in flags if _is_given(context, name)})
    log = None if access_log is None else AccessLog(None if access_log == "-" else Path(access_log))
    connections = min(Settings.max_connections, max_connections() or Settings.max_connections)
    settings = Settings(
        api_keys=tuple(api_key),
        host_names=(host, *name),
        max_body_bytes=max_body,
        max_prompt_tokens=max_prompt,
        max_answer_tokens=max_answer,
        requests_per_minute=per_minute,
        timeout=seconds,
        max_waiting=waiting,
        max_requests_per_caller=per_caller or max(1, waiting // 2),
        max_active_requests=min(Settings.max_active_requests, connections - connections // 8),
        max_connections=connections,
    )
    with bind(host, port) as listening:
        measured = grades is not None or topics is not None
        collected = SearchGrades(grades, topics, qrels) if measured else None
        service = make_service(
            base,
            Store(store),
            settings,
            encoders=encoder,
            load=load,
            tasks=tasks,
            access_log=log,
            engine=local,
            waiting_per_caller=waiting_per_caller,
            pipelines=pipelines,
            overrides=parameters,
            cache=cache_of(cache, cache_mb),
            grades=collected,
        )
        if not api_key and not is_loopback(host):
            typer.echo("warning: there is no API key: everyone who reaches this address can use the server.", err=True)
        typer.echo(f"Serving {service.base} and its adapters at {address(listening)}v1. Ctrl+C stops.")
        if pipelines:
            typer.echo(f"Search by {', '.join(service.pipelines.names)} in a browser: {address(listening)}")
        run_server(service, listening, grace=grace, trusted_proxies=trusted_proxy)


def _with_corpora(pipelines: Sequence[str], corpora: Sequence[Path]) -> list[tuple[str, Path | None]]:
    """Each pipeline with its corpus. Raises `UsageError` for another number of corpora than none, one, or one each."""
    if not corpora:
        return [(pipeline, None) for pipeline in pipelines]
    if len(corpora) not in (1, len(pipelines)) or not pipelines:
        raise UsageError(
            f"there are {len(corpora)} corpora for {len(pipelines)} pipelines",
            where="--corpus",
            fix="Give one for all pipelines, or one for each in the order of --pipeline.",
        )
    each = [*corpora] if len(corpora) > 1 else [*corpora] * len(pipelines)
    return list(zip(pipelines, each, strict=True))


def _is_given(context: typer.Context, name: str) -> bool:
    """Whether an option is on the command line; else its value is the default."""
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def _engine(text: str | None, flags: Mapping[str, Any], given: Collection[str]) -> LocalSettings:
    """The settings of the engine: those of `--engine`, and the options that are given, or all options without it."""
    from searchlora.inference.settings import LocalSettings, read_engine

    if text is None:
        return LocalSettings(**flags)
    settings = read_engine(text, {name: flags[name] for name in given}, where="--engine")
    if not isinstance(settings, LocalSettings):
        raise UsageError("a server computes in its own process", where="--engine", fix="Give settings of kind local.")
    if "batch_invariant" not in settings.model_fields_set:  # see `DEFAULT_ENGINE`: a server prefers speed
        settings = settings.model_copy(update={"batch_invariant": False})
    return settings
