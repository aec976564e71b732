"""Settings of `searchlora serve`: each is an option of the command and a key of its file (`--config`)."""

# ruff: noqa: RUF009  # `_setting` makes a field

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, get_type_hints

from searchlora.errors import UsageError
from searchlora.files import read_text
from searchlora.files.yaml_text import parse_yaml

if TYPE_CHECKING:
    from searchlora.inference.settings import LocalSettings

#: Keys of the settings of an engine that the server has, too; `max_prompt_tokens` is its `max_prompt`.
_OF_ENGINE = (
    *("quantization", "precision", "max_loras", "adapter_bytes", "adapter_cache_bytes"),
    *("max_num_seqs", "batch_tokens", "cache_tokens", "prefix_tokens", "batch_invariant"),
)


@dataclass(frozen=True)
class Setting:
    """What a setting means, for `--help` and the reference."""

    metavar: str  # what a value is; empty for a flag
    help: str
    min: float | None = None
    option: str | None = None
    variable: str | None = None


def _setting(default: Any, metavar: str, help_: str, **more: Any) -> Any:
    """A field of `ServeConfig` with its `Setting`."""
    return field(default=default, metadata={"setting": Setting(metavar, help_, **more)})


@dataclass(frozen=True)
class ServeConfig:
    """Settings of a server. `read_config` validates them with pydantic, which the command line does not import."""

    __pydantic_config__: ClassVar[Any] = {"extra": "forbid"}

    base: str = _setting(
        "smollm2-135m-instruct-q4_1",
        "MODEL",
        "Base model: hub id, folder, GGUF file, catalogue name, or NAME@VERSION of a fully fine-tuned model.",
    )
    store: Path | None = _setting(None, "FOLDER", "Adapter store. Default: SEARCHLORA_STORE, or ./store.")
    tasks: Path | None = _setting(None, "FOLDER", "Folder with task plugins of your own. Default: SEARCHLORA_TASKS.")
    encoders: tuple[str, ...] = _setting((), "MODEL", "Encoder for /v1/embeddings; repeatable.", option="--encoder")
    load: tuple[str, ...] = _setting((), "ADAPTER", "Adapter to load at start; repeatable.")
    pipelines: tuple[str, ...] = _setting(
        (),
        "PIPELINE",
        "Pipeline for /v1/search and the playground: a YAML file or a built-in one; repeatable.",
        option="--pipeline",
    )
    corpora: tuple[Path, ...] = _setting(
        (),
        "FILE",
        "Documents: a file or an index folder. Once for all pipelines, or once for each, in their order."
        " Default: the corpus that each pipeline names.",
        option="--corpus",
    )
    parameters: tuple[str, ...] = _setting(
        (),
        "KEY=VALUE",
        "Set a parameter of the pipeline, for example adapter=shop-rewriter@2; repeatable.",
        option="--set",
    )
    cache: Path | None = _setting(
        None, "FILE", "Cache the outputs of adapter stages in this file, by prompt and adapter version."
    )
    cache_mb: int = _setting(1024, "MB", "Maximum size of --cache; the least recently used outputs are evicted.", min=1)
    grades: Path | None = _setting(None, "FOLDER", "Folder for the grades that people give to hits in the playground.")
    events: str | None = _setting(
        None, "PLACE", "Record searches and clicks: a folder, or postgresql://user@host/database."
    )
    events_sample: float = _setting(1.0, "RATIO", "Ratio of the searches that are recorded, from 0 to 1.", min=0)
    events_days: float | None = _setting(None, "DAYS", "Remove recorded searches after this time.", min=0)
    events_mb: float | None = _setting(None, "MB", "Remove the oldest recorded searches beyond this size.", min=1)
    price_prompt: float = _setting(
        0.0, "PRICE", "Price of a million tokens of prompts, for searchlora_cost_total in /metrics.", min=0
    )
    price_output: float = _setting(0.0, "PRICE", "Price of a million tokens that are written or scored.", min=0)
    interleave: str | None = _setting(
        None, "A=B", "Answer searches of pipeline A with the hits of A and B in turn; clicks say which is better."
    )
    interleave_method: Literal["team_draft", "probabilistic"] = _setting(
        "team_draft", "team_draft|probabilistic", "How the hits of both are interleaved."
    )
    shadow: str | None = _setting(
        None, "ALIAS", "Search again with the versions of this alias, such as candidate, while the server is idle."
    )
    shadow_rows: float | None = _setting(
        None, "N", "Maximum number of engine requests of shadow searches per minute.", min=1
    )
    topics: Path | None = _setting(
        None, "FILE", "Topics of a test collection; the playground offers them, and measures their hits."
    )
    qrels: Path | None = _setting(None, "FILE", "Relevance judgments of the topics (qrels).")
    host: str = _setting(
        "127.0.0.1", "ADDRESS", "Address to listen on; 0.0.0.0 accepts connections from other machines."
    )
    port: int = _setting(8000, "PORT", "Port; 0 selects a free one.", min=0)
    allowed_hosts: tuple[str, ...] = _setting(
        (), "HOST", "Another host name under which this server is reached; repeatable.", option="--allowed-host"
    )
    trusted_proxies: tuple[str, ...] = _setting(
        (),
        "ADDRESS",
        "Address or network of a reverse proxy whose X-Forwarded-For names the client; repeatable.",
        option="--trusted-proxy",
    )
    api_keys: tuple[str, ...] = _setting(
        (),
        "KEY",
        "API key that requests must carry; repeatable. Prefer the environment variable: other users of the"
        " machine can read the command line.",
        option="--api-key",
        variable="SEARCHLORA_API_KEY",
    )
    keys: Path | None = _setting(
        None, "FILE", "File of API keys that read or write, see `searchlora add-key`; read at each request."
    )
    engine: str | dict[str, Any] | None = _setting(
        None,
        "SETTINGS",
        "Settings of the engine: a YAML file, or '{quantization: nf4}'. The options below take precedence.",
    )
    quantization: Literal["none", "nf4"] = _setting("none", "none|nf4", "Quantisation of the base's weights.")
    precision: Literal["bf16", "fp32"] = _setting("bf16", "bf16|fp32", "Precision of the computation.")
    max_loras: int = _setting(16, "N", "LoRA slots: number of adapters that are loaded at once.", min=1)
    adapter_bytes: int = _setting(4 << 30, "BYTES", "Maximum memory for the weights of all loaded adapters.", min=1)
    adapter_cache_bytes: int = _setting(
        2 << 30, "BYTES", "Memory for adapters without a slot, evicted or read ahead, on a CPU; 0 turns it off."
    )
    batch_invariant: bool = _setting(
        False, "", "Make every answer independent of the other requests, to the last bit; it costs speed."
    )
    max_num_seqs: int = _setting(32, "N", "Rows of one batch, for decoding and prefill.", min=1)
    batch_tokens: int = _setting(8192, "TOKENS", "Rows times longest row of one prefill.", min=1)
    cache_tokens: int | None = _setting(
        None, "TOKENS", "KV cache: rows times longest sequence; default: 65536, or less where memory is short.", min=1
    )
    prefix_tokens: int = _setting(16384, "TOKENS", "Prefix cache shared by prompts.", min=0)
    waiting: int = _setting(1024, "N", "Maximum number of requests in the queue; further requests get 503.", min=1)
    waiting_per_client: int | None = _setting(
        None,
        "N",
        "Maximum number of queued requests of one client; further requests get 503. Default: a quarter of"
        " --waiting, at least 256.",
        min=1,
    )
    per_client: int | None = _setting(
        None,
        "N",
        "Maximum number of requests of one client in progress; further requests get 429. Default: half of --waiting.",
        min=1,
    )
    max_active_requests: int = _setting(
        2048, "N", "Maximum number of requests in progress, unread bodies included; others get 503.", min=1
    )
    limit_concurrency: int = _setting(4096, "N", "Maximum number of connections; beyond it requests get 503.", min=1)
    timeout: float = _setting(120.0, "SECONDS", "Time limit of a request; a slower one gets 504.", min=0.001)
    drain_time: float = _setting(
        0.0,
        "SECONDS",
        "Time after SIGTERM in which the server is not ready and goes on serving, so that proxies notice.",
        min=0,
    )
    shutdown_timeout: float = _setting(
        60.0, "SECONDS", "Time that requests in progress get to finish when the server stops.", min=0
    )
    max_body: int = _setting(1_000_000, "BYTES", "Maximum size of a request body; a larger one gets 413.", min=1)
    max_prompt: int = _setting(8192, "TOKENS", "Maximum length of a prompt; a longer one gets 400.", min=1)
    max_answer: int = _setting(1024, "TOKENS", "Maximum length of an answer; a request for more gets 400.", min=1)
    access_log: str | None = _setting(
        None,
        "FILE",
        "Append a JSON line per request: time, caller, method, path, status, seconds; `-` is standard output.",
    )

    def __post_init__(self) -> None:
        """Raise `UsageError` for settings out of range or that contradict each other, before anything is loaded."""
        for key, (_, setting, _) in settings_by_key().items():
            value = getattr(self, key)
            if setting.min is not None and value is not None and not value >= setting.min:
                raise UsageError(f"'{key}' is {value}", fix=f"Give at least {setting.min:g}.")
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

        if self.interleave is not None:
            if self.events is None:
                raise UsageError("the clicks must be recorded", where="--interleave", fix="Give --events, too.")
            if not all(self.interleave.partition("=")):
                raise UsageError(f"'{self.interleave}' is not two pipelines", where="--interleave", fix="Write A=B.")
        if self.shadow is not None and self.events is None:
            raise UsageError("shadow searches are recorded", where="--shadow", fix="Give --events, too.")
        if self.events_sample > 1:
            raise UsageError(f"'events_sample' is {self.events_sample:g}", fix="Give a ratio from 0 to 1.")

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

        given = {name: value for name in _OF_ENGINE if (value := getattr(self, name)) is not None}
        return LocalSettings(max_prompt_tokens=self.max_prompt, **given)


@cache
def settings_by_key() -> dict[str, tuple[Any, Setting, Any]]:
    """Key -> type, description and default of each setting."""
    types = get_type_hints(ServeConfig)
    return {each.name: (types[each.name], each.metadata["setting"], each.default) for each in fields(ServeConfig)}


def read_config(file: Path | None, options: Mapping[str, Any]) -> ServeConfig:
    """The settings in a YAML file, with options laid over them. Without a file, all have their defaults.

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
