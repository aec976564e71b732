"""Settings of an engine, as files and the command line hold them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self, TypeAlias

from pydantic import BaseModel as Model
from pydantic import ConfigDict, Discriminator, Field, Tag, ValidationError

from searchlora.errors import LoadCheckFailed, PipelineError
from searchlora.files import read_text
from searchlora.files.yaml_text import parse_yaml
from searchlora.http_client import api_key, check_key_variable
from searchlora.models.experts import is_mixture_of_experts
from searchlora.models.load import Precision, Quantization
from searchlora.models.processor import uses_gpu
from searchlora.models.resolve import BaseModel
from searchlora.recipe import AnyRecipe, PromptOptions

if TYPE_CHECKING:
    from searchlora.adapters.store import Store
    from searchlora.inference.local import LocalEngine
    from searchlora.inference.remote.engine import RemoteEngine
    from searchlora.inference.remote.vllm_engine import VllmEngine

#: Kinds of servers.
DialectName: TypeAlias = Literal["vllm", "searchlora", "openai"]

#: Requests that a local engine queues unless its maker says otherwise.
WAITING = 4096


#: Environment variable with the interpreter of the environment that has vLLM.
VLLM_PYTHON = "SEARCHLORA_VLLM_PYTHON"


class _Settings(Model):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    def check_in_file(self, where: str) -> None:
        """Refuse, in a file that may come from somebody else, what sends a secret or starts a program.

        Raises `PipelineError`.
        """

    def check_recipe(self, recipe: AnyRecipe, where: str) -> None:
        """Refuse, before it is trained, an adapter that the engine could not compute.

        Raises `LoadCheckFailed`, or `EngineError` for an engine that cannot be started.
        """

    def with_precision(self, precision: Precision) -> Self:
        """These settings, with a precision if they have one and leave it open."""
        is_open = getattr(self, "precision", precision) is None
        return self.model_copy(update={"precision": precision}) if is_open else self


class LocalSettings(_Settings):
    """`engine: {kind: local, quantization: nf4, max_num_seqs: 16}`: the base model in this process, see `LocalEngine`.

    Examples:
        >>> LocalSettings(quantization="nf4", batch_invariant=True).engine_id("bf16")
        'local, nf4+bf16'
        >>> LocalSettings(precision="fp32", batch_invariant=False).engine_id("bf16")
        'local, fp32, not batch invariant'
    """

    kind: Literal["local"] = "local"
    quantization: Quantization = Field("none", description="quantisation of the base's weights")
    precision: Precision | None = Field(
        None, description="precision of the computation; default: that of the adapter's recipe"
    )
    max_num_seqs: int = Field(32, ge=1, description="rows of one batch, for decoding and prefill")
    batch_tokens: int = Field(8192, ge=1, description="rows times longest row of one prefill")
    max_prompt_tokens: int = Field(8192, ge=1, description="maximum length of a prompt; a longer one is an error")
    max_loras: int = Field(16, ge=1, description="LoRA slots: adapters that are loaded at once")
    adapter_bytes: int = Field(4 << 30, ge=1, description="maximum memory for the weights of all loaded adapters")
    adapter_cache_bytes: int = Field(
        2 << 30, ge=0, description="memory for adapters without a slot, evicted or read ahead, on a CPU; 0 turns it off"
    )
    cache_tokens: int = Field(65536, ge=1, description="KV cache: rows times longest sequence")
    prefix_tokens: int = Field(16384, ge=0, description="prefix cache shared by prompts; 0 turns it off")
    batch_invariant: bool | None = Field(
        None,
        description="make every answer independent of the other requests, to the last bit; it costs speed. Default:"
        " true on a CPU, but not for a mixture of experts; false on a GPU",
    )

    def is_batch_invariant(self, base: BaseModel | None = None) -> bool:
        """Whether answers of a base are equal to the last bit in any batch, on the device of this process."""
        if self.batch_invariant is not None:
            return self.batch_invariant
        return not uses_gpu() and (base is None or not is_mixture_of_experts(base.path))

    def engine_id(self, precision: str, base: BaseModel | None = None) -> str:
        """What distinguishes outputs of this engine from those of another one; limits and sizes do not.

        Args:
            precision: The precision where the settings leave it open.
            base: The base model; None: one that is not a mixture of experts.
        """
        computed = self.precision or precision
        computed = computed if self.quantization == "none" else f"{self.quantization}+{computed}"
        return f"local, {computed}" if self.is_batch_invariant(base) else f"local, {computed}, not batch invariant"

    def make(self, base: BaseModel, store: Store | None, prompt_options: PromptOptions | None) -> LocalEngine:
        """As `make_engine`."""
        from searchlora.inference.local import LocalEngine

        return LocalEngine(base, store, self, prompt_options=prompt_options)


class _HttpSettings(_Settings):
    """How requests are sent to a server."""

    concurrency: int = Field(256, ge=1, description="maximum number of requests in flight; a slow server gets fewer")
    timeout_s: float = Field(60, gt=0, description="time limit of one attempt in seconds")
    retries: int = Field(4, ge=0, description="attempts after the first")


class HttpServerSettings(_HttpSettings):
    """How a server that is there already is reached."""

    url: str
    api_key_env: str | None = Field(
        None,
        pattern=r"^[A-Za-z_]\w*$",
        description="environment variable with the server's key; a file may only name one that"
        " SEARCHLORA_API_KEY_VARIABLES lists",
    )


class ServerSettings(HttpServerSettings):
    """`engine: {url: http://localhost:8000}`: a server that generates, see `RemoteEngine`."""

    kind: Literal["server"] = "server"
    names: dict[str, str] = Field(
        default_factory=dict, description="adapter reference -> the server's name of the adapter"
    )
    model: str | None = Field(None, description="the server's name of the base model; default: the first that it lists")
    dialect: DialectName | None = Field(None, description="kind of server; default: detected")
    load: bool = Field(False, description="load adapters on vLLM from the store's folder")
    max_loaded: int | None = Field(
        None, ge=1, description="with `load`: adapters that are loaded at once; the first is unloaded for another one"
    )

    def check_in_file(self, where: str) -> None:
        """The environment must allow the variable whose value the server would receive."""
        check_key_variable(self.api_key_env, where)

    def make(self, base: BaseModel, store: Store | None, prompt_options: PromptOptions | None) -> RemoteEngine:
        """As `make_engine`."""
        from searchlora.inference.remote.engine import RemoteEngine

        options = self.model_dump(exclude={"kind", "url", "api_key_env"})
        key = api_key(self.api_key_env, self.url)
        return RemoteEngine(self.url, base, store, api_key=key, prompt_options=prompt_options, **options)


class VllmSettings(_HttpSettings):
    """`engine: {kind: vllm, python: ~/vllm/bin/python}`: a vLLM server that this process starts, see `VllmEngine`.

    Examples:
        >>> VllmSettings(tensor_parallel_size=2).max_loras
        4
    """

    kind: Literal["vllm"] = "vllm"
    python: str | None = Field(
        None,
        description=f"interpreter of the environment with vLLM; default: the environment variable {VLLM_PYTHON}."
        " A pipeline or an experiment may name no other",
    )
    precision: Precision | None = Field(
        None, description="precision of the computation; default: that of the adapter's recipe"
    )
    tensor_parallel_size: int = Field(1, ge=1, description="GPUs that share each layer")
    data_parallel_size: int = Field(1, ge=1, description="copies of the model, each with its part of the requests")
    max_loras: int = Field(4, ge=2, description="LoRA slots; one stays empty")
    max_lora_rank: Literal[8, 16, 32, 64, 128, 256, 320, 512] = Field(32, description="maximum rank of an adapter")
    args: tuple[str, ...] = Field(
        (), description="further arguments of vLLM, such as `--quantization=fp8`; not in a pipeline or an experiment"
    )
    start_timeout_s: float = Field(900, gt=0, description="time limit of the start in seconds")
    timeout_s: float = Field(600, gt=0, description="time limit of one attempt in seconds")

    @property
    def interpreter(self) -> str:
        return str(Path(self.python or os.environ.get(VLLM_PYTHON, "")).expanduser())

    def check_in_file(self, where: str) -> None:
        """vLLM must be the one that the environment names."""
        allowed = os.environ.get(VLLM_PYTHON)
        if self.args or not allowed or self.python not in (None, allowed):
            key = "args" if self.args else "python"
            raise PipelineError(
                f"'{key}': a pipeline or an experiment does not choose the program that runs",
                where=where,
                fix=f"Name the interpreter with {VLLM_PYTHON}, or give the whole engine with --engine.",
            )

    def check_recipe(self, recipe: AnyRecipe, where: str) -> None:
        """vLLM must be there, and compute an adapter of this rank."""
        self.engine_id("auto")
        if not recipe.is_full and recipe.lora.r > self.max_lora_rank:
            raise LoadCheckFailed(f"rank {recipe.lora.r} is above the engine's max_lora_rank", where=where)

    def engine_id(self, precision: str, base: BaseModel | None = None) -> str:
        """As `LocalSettings.engine_id`: the version of vLLM, the precision and further arguments."""
        from searchlora.inference.remote.vllm_server import installed_version

        del base
        return ", ".join([f"vllm {installed_version(self.interpreter)}", self.precision or precision, *self.args])

    def make(self, base: BaseModel, store: Store | None, prompt_options: PromptOptions | None) -> VllmEngine:
        """As `make_engine`."""
        from searchlora.inference.remote.vllm_engine import VllmEngine

        return VllmEngine(self, base, store, prompt_options=prompt_options)


def _kind(value: Any) -> str:
    """The kind of engine that settings are of: without `kind`, those with a URL are of a server."""
    if not isinstance(value, Mapping):
        return str(getattr(value, "kind", ""))
    return str(value.get("kind", "server" if "url" in value else "local"))


_KINDS: Mapping[str, type[LocalSettings] | type[ServerSettings] | type[VllmSettings]] = {
    "local": LocalSettings,
    "server": ServerSettings,
    "vllm": VllmSettings,
}

#: Settings of an engine. A further kind is one more class, here and in `_KINDS`.
EngineSettings: TypeAlias = Annotated[
    Annotated[LocalSettings, Tag("local")]
    | Annotated[ServerSettings, Tag("server")]
    | Annotated[VllmSettings, Tag("vllm")],
    Discriminator(_kind),
]


def engine_settings(content: Any, where: str, *, from_file: bool = True) -> EngineSettings:
    """The settings in a mapping.

    Args:
        where: The file or option, for error messages.
        from_file: Whether they are part of a pipeline or an experiment, which may come from somebody else.

    Raises:
        PipelineError: naming the key that is invalid.

    Examples:
        >>> engine_settings({"quantization": "nf4"}, "engine").kind
        'local'
        >>> engine_settings({"url": "http://localhost:8000"}, "engine").kind
        'server'
    """
    if not isinstance(content, Mapping):
        raise PipelineError(
            "the settings of an engine are a mapping", where=where, fix="For example {quantization: nf4}."
        )
    kind = _kind(content)
    if kind not in _KINDS:
        raise PipelineError(f"'kind': there is no engine '{kind}'", where=where, fix=f"Kinds: {', '.join(_KINDS)}.")
    model = _KINDS[kind]
    try:
        settings = model.model_validate(dict(content))
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"]) or "the engine"
        known = f"Known keys: {', '.join(sorted(model.model_fields))}." if first["type"] == "extra_forbidden" else None
        raise PipelineError(f"'{key}': {first['msg'].lower()}", where=where, fix=known) from None
    if from_file:
        settings.check_in_file(where)
    return settings


def local_settings(options: Mapping[str, Any]) -> LocalSettings:
    """The settings of a local engine. Raises `PipelineError` naming the option that is invalid."""
    settings = engine_settings({"kind": "local", **options}, "the engine", from_file=False)
    assert isinstance(settings, LocalSettings)
    return settings


def read_engine(text: str, more: Mapping[str, Any] | None = None, *, where: str) -> EngineSettings:
    """The settings in a YAML file, or in a text such as `{quantization: nf4, max_num_seqs: 16}`.

    Args:
        text: Path of a file, or a YAML mapping.
        more: Settings that are laid over those of the text.
        where: The option, for errors in a text that is no file.

    Raises:
        PipelineError: for neither, and as `engine_settings`.

    Examples:
        >>> read_engine("{max_num_seqs: 16}", where="--engine").max_num_seqs
        16
    """
    is_file = not text.lstrip().startswith("{")
    where = text if is_file else where
    try:
        content = parse_yaml(read_text(Path(text)) if is_file else text)
    except ValueError as error:
        raise PipelineError(str(error), where=where) from None
    if more and isinstance(content, Mapping):
        content = {**content, **more}
    key = content.get("api_key_env") if isinstance(content, Mapping) else None
    return engine_settings(content, where, from_file=is_file and (more or {}).get("api_key_env") != key)
