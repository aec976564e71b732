"""Settings of `searchlora serve`: each is an option of the command and a key of its file (`--config`)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, get_type_hints

from searchlora.errors import UsageError
from searchlora.files import read_text
from searchlora.files.yaml_text import parse_yaml

if TYPE_CHECKING:
    from searchlora.inference.settings import LocalSettings

#: Keys of the settings of an engine that the server has, too; `max_prompt_tokens` is its `max_prompt`.
_OF_ENGINE = (
    *("quantization", "precision", "max_loras", "max_lora_rank", "adapter_bytes"),
    *("max_num_seqs", "batch_tokens", "cache_tokens", "prefix_tokens", "batch_invariant"),
)


@dataclass(frozen=True)
class Setting:
    """What a setting means, for `--help`, the reference and pydantic.

    Attributes:
        metavar: What a value is; empty for a flag.
        help: What it does.
        min: The least value.
        option: Its option, if it is not the key: a list is given by an option in the singular.
        variable: Environment variable that sets it.
    """

    metavar: str
    help: str
    min: float | None = None
    option: str | None = None
    variable: str | None = None

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> Any:
        """The schema of the value with its bound."""
        schema = handler(source)
        if self.min is not None:
            schema.get("schema", schema)["ge"] = self.min  # that of a value that may be null lies within
        return schema


@dataclass(frozen=True)
class ServeConfig:
    """Settings of a server. `read_config` validates them with pydantic, which the command line does not import."""

    __pydantic_config__: ClassVar[Any] = {"extra": "forbid"}

    base: Annotated[
        str,
        Setting(
            "MODEL",
            "Base model: hub id, folder, GGUF file, catalogue name, or NAME@VERSION of a fully fine-tuned model.",
        ),
    ] = "smollm2-135m-instruct-q4_1"
    store: Annotated[Path | None, Setting("FOLDER", "Adapter store. Default: SEARCHLORA_STORE, or ./store.")] = None
    tasks: Annotated[
        Path | None, Setting("FOLDER", "Folder with task plugins of your own. Default: SEARCHLORA_TASKS.")
    ] = None
    encoders: Annotated[
        tuple[str, ...], Setting("MODEL", "Encoder for /v1/embeddings; repeatable.", option="--encoder")
    ] = ()
    load: Annotated[tuple[str, ...], Setting("ADAPTER", "Adapter to load at start; repeatable.")] = ()
    pipelines: Annotated[
        tuple[str, ...],
        Setting(
            "PIPELINE",
            "Pipeline for /v1/search and the playground: a YAML file or a built-in one; repeatable.",
            option="--pipeline",
        ),
    ] = ()
    corpora: Annotated[
        tuple[Path, ...],
        Setting(
            "FILE",
            "Documents: a file or an index folder. Once for all pipelines, or once for each, in their order."
            " Default: the corpus that each pipeline names.",
            option="--corpus",
        ),
    ] = ()
    parameters: Annotated[
        tuple[str, ...],
        Setting(
            "KEY=VALUE",
            "Set a parameter of the pipeline, for example adapter=shop-rewriter@2; repeatable.",
            option="--set",
        ),
    ] = ()
    cache: Annotated[
        Path | None, Setting("FILE", "Cache the outputs of adapter stages in this file, by prompt and adapter version.")
    ] = None
    cache_mb: Annotated[
        int, Setting("MB", "Maximum size of --cache; the least recently used outputs are evicted.", min=1)
    ] = 1024
    grades: Annotated[
        Path | None, Setting("FOLDER", "Folder for the grades that people give to hits in the playground.")
    ] = None
    topics: Annotated[
        Path | None, Setting("FILE", "Topics of a test collection, on which the playground compares systems.")
    ] = None
    qrels: Annotated[Path | None, Setting("FILE", "Relevance judgments of the topics (qrels).")] = None
    host: Annotated[
        str, Setting("ADDRESS", "Address to listen on; 0.0.0.0 accepts connections from other machines.")
    ] = "127.0.0.1"
    port: Annotated[int, Setting("PORT", "Port; 0 selects a free one.", min=0)] = 8000
    allowed_hosts: Annotated[
        tuple[str, ...],
        Setting("HOST", "Another host name under which this server is reached; repeatable.", option="--allowed-host"),
    ] = ()
    trusted_proxies: Annotated[
        tuple[str, ...],
        Setting(
            "ADDRESS",
            "Address or network of a reverse proxy whose X-Forwarded-For names the client; repeatable.",
            option="--trusted-proxy",
        ),
    ] = ()
    api_keys: Annotated[
        tuple[str, ...],
        Setting(
            "KEY",
            "API key that requests must carry; repeatable. Prefer the environment variable: other users of the"
            " machine can read the command line.",
            option="--api-key",
            variable="SEARCHLORA_API_KEY",
        ),
    ] = ()
    engine: Annotated[
        str | dict[str, Any] | None,
        Setting(
            "SETTINGS",
            "Settings of the engine: a YAML file, or '{quantization: nf4}'. The options below take precedence.",
        ),
    ] = None
    quantization: Annotated[Literal["none", "nf4"], Setting("none|nf4", "Quantisation of the base's weights.")] = "none"
    precision: Annotated[Literal["bf16", "fp32"], Setting("bf16|fp32", "Precision of the computation.")] = "bf16"
    max_loras: Annotated[int, Setting("N", "LoRA slots: number of adapters that are loaded at once.", min=1)] = 16
    max_lora_rank: Annotated[int, Setting("N", "Maximum rank of an adapter; a larger one is refused.", min=1)] = 1024
    adapter_bytes: Annotated[int, Setting("BYTES", "Maximum memory for the weights of all loaded adapters.", min=1)] = (
        4 << 30
    )
    batch_invariant: Annotated[
        bool,
        Setting("", "Make every answer independent of the other requests, to the last bit; it costs speed."),
    ] = False
    max_num_seqs: Annotated[int, Setting("N", "Rows of one batch, for decoding and prefill.", min=1)] = 32
    batch_tokens: Annotated[int, Setting("TOKENS", "Rows times longest row of one prefill.", min=1)] = 8192
    cache_tokens: Annotated[int, Setting("TOKENS", "KV cache: rows times longest sequence.", min=1)] = 65536
    prefix_tokens: Annotated[int, Setting("TOKENS", "Prefix cache shared by prompts.", min=0)] = 16384
    waiting: Annotated[
        int, Setting("N", "Maximum number of requests in the queue; further requests get 503.", min=1)
    ] = 1024
    waiting_per_client: Annotated[
        int | None,
        Setting(
            "N",
            "Maximum number of queued requests of one client; further requests get 503. Default: a quarter of"
            " --waiting, at least 256.",
            min=1,
        ),
    ] = None
    per_client: Annotated[
        int | None,
        Setting(
            "N",
            "Maximum number of requests of one client in progress; further requests get 429. Default: half of"
            " --waiting.",
            min=1,
        ),
    ] = None
    max_active_requests: Annotated[
        int, Setting("N", "Maximum number of requests in progress, unread bodies included; others get 503.", min=1)
    ] = 2048
    limit_concurrency: Annotated[
        int, Setting("N", "Maximum number of connections; beyond it requests get 503.", min=1)
    ] = 4096
    timeout: Annotated[float, Setting("SECONDS", "Time limit of a request; a slower one gets 504.", min=0.001)] = 120.0
    shutdown_timeout: Annotated[
        float, Setting("SECONDS", "Time that requests in progress get to finish when the server stops.", min=0)
    ] = 60.0
    per_minute: Annotated[
        int | None,
        Setting("N", "Maximum number of POST requests of one client per minute; further requests get 429.", min=1),
    ] = None
    max_body: Annotated[int, Setting("BYTES", "Maximum size of a request body; a larger one gets 413.", min=1)] = (
        1_000_000
    )
    max_prompt: Annotated[int, Setting("TOKENS", "Maximum length of a prompt; a longer one gets 400.", min=1)] = 8192
    max_answer: Annotated[
        int, Setting("TOKENS", "Maximum length of an answer; a request for more gets 400.", min=1)
    ] = 1024
    access_log: Annotated[
        str | None,
        Setting(
            "FILE",
            "Append a JSON line per request: time, caller, method, path, status, seconds; `-` is standard output.",
        ),
    ] = None

    def __post_init__(self) -> None:
        """Raise `UsageError` for settings that contradict each other, before anything is loaded."""
        if any(not key or key != key.strip() for key in self.api_keys):
            raise UsageError(
                "an API key is empty, or begins or ends with a blank",
                fix="Give a long random key, or no key at all to accept every request that reaches the server.",
            )
        if self.corpora and (not self.pipelines or len(self.corpora) not in (1, len(self.pipelines))):
            raise UsageError(
                f"there are {len(self.corpora)} corpora for {len(self.pipelines)} pipelines",
                where="--corpus",
                fix="Give one for all pipelines, or one for each in the order of --pipeline.",
            )
        if self.parameters and not self.pipelines:
            raise UsageError(
                f"there is no pipeline whose parameter '{self.parameters[0].partition('=')[0]}' could be set",
                where="--set",
                fix="Give --pipeline, too.",
            )
        if self.grades is None and (self.topics is None) != (self.qrels is None):
            raise UsageError(
                "topics and judgments measure together", where="--topics, --qrels", fix="Give both, or --grades FOLDER."
            )

    @property
    def corpus_of_each(self) -> list[Path | None]:
        """The corpus of each pipeline; None: the one that it names."""
        if len(self.corpora) == len(self.pipelines):
            return list(self.corpora)
        return [self.corpora[0] if self.corpora else None] * len(self.pipelines)

    @property
    def requests_per_client(self) -> int:
        """Requests of one client in progress at most; each request of a batch counts."""
        return self.per_client or max(1, self.waiting // 2)

    @property
    def local_engine(self) -> LocalSettings:
        """Settings of the server's own engine."""
        from searchlora.inference.settings import LocalSettings

        return LocalSettings(max_prompt_tokens=self.max_prompt, **{name: getattr(self, name) for name in _OF_ENGINE})


@cache
def settings_by_key() -> dict[str, tuple[Any, Setting, Any]]:
    """Key -> type, description and default of each setting."""
    hints = get_type_hints(ServeConfig, include_extras=True)
    described = {
        field.name: (*hints[field.name].__args__, *hints[field.name].__metadata__) for field in fields(ServeConfig)
    }
    return {field.name: (*described[field.name], field.default) for field in fields(ServeConfig)}


def read_config(file: Path | None, options: Mapping[str, Any]) -> ServeConfig:
    """The settings in a YAML file, with options laid over them.

    Args:
        file: Keys of `ServeConfig`; None: all have their defaults.
        options: Keys with other values.

    Raises:
        UsageError: naming a key that is unknown or has an invalid value; for settings that contradict each other.
        PipelineError: for invalid settings of the engine.

    Examples:
        >>> read_config(None, {"max_loras": 4}).max_loras
        4
    """
    from pydantic import TypeAdapter, ValidationError

    content = {**_read(file), **options}
    if content.get("engine") is not None:
        content = {**_engine_keys(content["engine"]), **content}
    try:
        return TypeAdapter(ServeConfig).validate_python(content)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(map(str, first["loc"][:1])) or "the settings"
        known = f"Keys: {', '.join(settings_by_key())}." if key not in settings_by_key() else None
        where = str(file) if file is not None and key not in options else None
        raise UsageError(f"'{key}': {first['msg'].lower()}", where=where, fix=known) from None


def _read(file: Path | None) -> dict[str, Any]:
    if file is None:
        return {}
    try:
        content = parse_yaml(read_text(file))
    except ValueError as error:
        raise UsageError(str(error), where=str(file)) from None
    if not isinstance(content, dict):
        raise UsageError("settings are a mapping", where=str(file), fix="For example 'base: my-model'.")
    return content


def _engine_keys(engine: str | Mapping[str, Any]) -> dict[str, Any]:
    """The server's keys for the settings of an engine. Raises as `read_config`."""
    from searchlora.inference.settings import LocalSettings, engine_settings, read_engine

    where = "--engine"
    settings = read_engine(engine, where=where) if isinstance(engine, str) else engine_settings(engine, where)
    if not isinstance(settings, LocalSettings):
        raise UsageError("a server computes in its own process", where=where, fix="Give settings of kind local.")
    given = settings.model_dump(exclude_unset=True, exclude_none=True, exclude={"kind"})
    return {"max_prompt" if name == "max_prompt_tokens" else name: value for name, value in given.items()}
