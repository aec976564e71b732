"""Options and arguments that several commands share, and parsers of their values."""

from __future__ import annotations

import inspect
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple, get_type_hints

import typer

from searchlora.errors import UsageError

if TYPE_CHECKING:
    from searchlora.data.collection import Corpus
    from searchlora.experiments.options import EvaluationOptions as VerbOptions
    from searchlora.experiments.options import TrainingOptions
    from searchlora.experiments.sharding import Sharding
    from searchlora.inference.answer_cache import AnswerCache
    from searchlora.inference.settings import EngineSettings


def example(*lines: str) -> str:
    """The epilog of a command: example command lines, printed verbatim below the options.

    Examples:
        >>> print(example("searchlora demo"))
        \b
        Example:
          searchlora demo
    """
    return "\n".join(["\b", "Example:", *(f"  {line}" for line in lines)])


def option(declaration: str, help: str, **more: Any) -> Any:
    """An option of a command."""
    name, _, metavar = declaration.partition(" ")
    return typer.Option(name, metavar=metavar or None, help=help, **more)


def argument(metavar: str, help: str) -> Any:
    """A positional argument of a command."""
    return typer.Argument(metavar=metavar, help=help)


def use_device(device: str | None) -> str | None:
    """Restrict this process to one device, before a library sees the others; nothing for None.

    Every library reads `CUDA_VISIBLE_DEVICES` when it first looks for GPUs. With one visible GPU no library spreads a
    model or a batch over several.
    """
    if device is None:
        return None
    match = re.fullmatch(r"cpu|cuda(?::(?P<number>[0-9]{1,3}))?", device)
    if match is None:
        raise UsageError(f"'{device}' is not a device", where="--device", fix="Give cpu, cuda or cuda:N.")
    if device == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
        return device
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    gpus = [gpu.strip() for gpu in visible.split(",") if gpu.strip()] if visible is not None else None
    number = int(match["number"] or 0)
    if gpus is not None and number >= len(gpus):
        raise UsageError(
            f"CUDA_VISIBLE_DEVICES lists {len(gpus)} GPUs", where=f"--device {device}", fix="They count from 0."
        )
    os.environ["CUDA_VISIBLE_DEVICES"] = gpus[number] if gpus is not None else str(number)
    import torch

    if not torch.cuda.is_available():
        raise UsageError(
            f"PyTorch {torch.__version__} sees no such GPU",
            where=f"--device {device}",
            fix="`searchlora doctor` shows what it sees; --device cpu uses the CPU.",
        )
    return device


StoreOption = Annotated[Path | None, option("--store FOLDER", "Adapter store. Default: SEARCHLORA_STORE, or ./store.")]
TasksOption = Annotated[
    Path | None, option("--tasks FOLDER", "Folder with task plugins of your own. Default: SEARCHLORA_TASKS.")
]
DataOption = Annotated[Path, option("--data FOLDER", "Dataset folder, from `data build`.")]
SplitOption = Annotated[str, option("--split SPLIT", "Split to evaluate on.")]
BaseOption = Annotated[
    str | None, option("--base MODEL", "Location of the base model, if it has moved since training.")
]
SetOption = Annotated[
    list[str], option("--set KEY=VALUE", "Override a key of the recipe, for example lora.r=8; repeatable.")
]
TrainedBaseOption = Annotated[
    str | None, option("--base MODEL", "Base model: hub id, folder, GGUF file or catalogue name.")
]
RecipeOption = Annotated[Path | None, option("--recipe FILE", "YAML file that overrides the task's recipe.")]
RestartOption = Annotated[bool, option("--restart", "Discard an unfinished training run of this name.")]
ParametersOption = Annotated[
    list[str],
    option("--set KEY=VALUE", "Set a parameter of the pipeline, for example adapter=shop-rewriter@2; repeatable."),
]

JudgmentsOption = Annotated[Path, option("--qrels FILE", "Relevance judgments of the topics (qrels).")]
JudgmentsSourceOption = Annotated[
    str | None,
    option(
        "--judgments-source SOURCE",
        "Who or what graded, where no card says it: human, llm, clicks, mixed, synthetic or unknown. Default: unknown.",
    ),
]
ClusterOption = Annotated[
    str | None, option("--cluster FIELD", "Topic field that groups dependent topics, such as a session.")
]
AllowCircularOption = Annotated[
    bool,
    option(
        "--allow-circular",
        "Accept a circular judge (part of a system, or trained on the topics); the result is marked.",
    ),
]
MapOption = Annotated[
    list[str],
    option(
        "--map FIELD=COLUMN",
        "Column of the corpus that holds a field: id=sku. Several are joined: text=title,description. Repeatable.",
    ),
]
CorpusOption = Annotated[Path, option("--corpus FILE", "Documents: rows with id, title and text.")]
TopicsOption = Annotated[Path, option("--topics FILE", "Topics: rows with id and query.")]
ScaleOption = Annotated[str, option("--scale GRADES", "Grades of the scale, for example 0,1,2,3.")]
CardScaleOption = Annotated[
    str | None, option("--scale GRADES", "Grades of the scale. Default: those of the judge's card, else 0,1,2,3.")
]
MeasureOption = Annotated[str, option("--measure MEASURE", "Retrieval measure, for example nDCG@10.")]
SeedOption = Annotated[int, option("--seed N", "Random seed.", min=0)]
DeviceOption = Annotated[
    str | None,
    option(
        "--device DEVICE",
        "cpu, cuda or cuda:N. Default: a GPU if PyTorch sees one.",
        callback=use_device,
    ),
]
JsonOption = Annotated[bool, option("--json", "Print one JSON document.")]
AdapterArgument = Annotated[str, argument("ADAPTER", "Adapter: name, name@3 or name@alias.")]
TaskArgument = Annotated[str, argument("TASK", "Task, for example rewriting.")]


class EngineOptions(NamedTuple):
    """Where LLM adapters are computed."""

    engine: Annotated[
        str | None,
        option(
            "--engine SETTINGS",
            "Engine that runs LLM adapters: a YAML file, or '{quantization: nf4}'. Default: this process.",
        ),
    ] = None
    server: Annotated[
        str | None, option("--server URL", "Inference server that runs LLM adapters, instead of this process.")
    ] = None
    api_key_env: Annotated[
        str | None, option("--api-key-env VARIABLE", "Environment variable that holds the API key of the server.")
    ] = None

    def read(self) -> EngineSettings | None:
        """The settings of the engine; `--server` and `--api-key-env` are laid over `--engine`. None without any."""
        from searchlora.inference.settings import ServerSettings, engine_settings, read_engine

        own = {"url": self.server, "api_key_env": self.api_key_env}
        given = {key: value for key, value in own.items() if value is not None}
        if self.engine is not None:
            settings = read_engine(self.engine, given, where="--engine")
        elif self.server is not None:
            settings = engine_settings(given, "--server", from_file=False)
        else:
            settings = None
        if self.api_key_env is not None and not isinstance(settings, ServerSettings):
            raise UsageError("there is no server for the key", where="--api-key-env", fix="Give --server, too.")
        return settings


class CacheOptions(NamedTuple):
    """The cache of outputs of adapter stages."""

    cache: Annotated[
        Path | None,
        option("--cache FILE", "Cache the outputs of adapter stages in this file, by prompt and adapter version."),
    ] = None
    cache_mb: Annotated[
        int, option("--cache-mb MB", "Maximum size of --cache; the least recently used outputs are evicted.", min=1)
    ] = 1024

    def open(self) -> AnswerCache | None:
        """The cache; None without a file."""
        from searchlora.inference.answer_cache import AnswerCache

        return AnswerCache(self.cache, self.cache_mb << 20) if self.cache is not None else None


class StoreOptions(NamedTuple):
    """The store, further tasks, and the device of this process."""

    store: StoreOption = None
    tasks: TasksOption = None
    device: DeviceOption = None

    def given(self) -> dict[str, Any]:
        """The arguments of a verb; the device was chosen when the option was read."""
        return {"store": self.store, "tasks": self.tasks}


class RecipeOptions(NamedTuple):
    """Options of the verbs that train by a recipe."""

    base: TrainedBaseOption = None
    recipe: RecipeOption = None
    overrides: SetOption = []
    restart: RestartOption = False

    def read(self, **more: Any) -> TrainingOptions:
        """The options of a verb, with further ones."""
        from searchlora.experiments.options import TrainingOptions

        return TrainingOptions(**self._asdict(), **more)


class PoolOptions(NamedTuple):
    """The pairs to grade: the top documents of runs, or a file; with the names of the verbs' parameters."""

    runs: Annotated[list[Path], option("--pool FILE", "TREC run whose top documents are graded; repeatable.")] = []
    depth: Annotated[int, option("--depth N", "Pool depth: documents per run.", min=1)] = 10
    pairs: Annotated[
        Path | None,
        option("--pairs FILE", "Pairs to grade, instead of a pool: 'topic document' lines, qrels or JSONL."),
    ] = None


class PeriodOptions(NamedTuple):
    """Which searches of a log are read."""

    since: Annotated[
        str | None, option("--since TIME", "From this time on: 2026-11-30, 2026-11-30T12:00, or 7d, 24h ago.")
    ] = None
    until: Annotated[str | None, option("--until TIME", "Before this time.")] = None
    pipeline: Annotated[str | None, option("--of-pipeline NAME", "Searches of this pipeline only.")] = None


class ShardOptions(NamedTuple):
    """How bulk work is divided."""

    shard: Annotated[
        str | None,
        option("--shard I/N", "Compute shard I of N only, here; `merge` joins all N."),
    ] = None
    shards: Annotated[
        int, option("--shards N", "Compute N shards at once, each by an engine of its own, and merge them.", min=1)
    ] = 1
    on: Annotated[
        Literal["here", "ray"],
        option("--on PLACE", "here: processes of this machine; ray: a Ray cluster (RAY_ADDRESS), or this machine."),
    ] = "here"
    gpus_per_shard: Annotated[
        float, option("--gpus-per-shard N", "With --on ray: GPUs that are reserved for each shard.", min=0)
    ] = 0.0

    def read(self) -> Sharding:
        """The division of the work. Raises `UsageError` for options that exclude each other."""
        from searchlora.experiments.sharding import Sharding
        from searchlora.files.shards import Shard

        return Sharding(**{**self._asdict(), "shard": Shard.parse(self.shard) if self.shard is not None else None})


def shard_done(shard: str | None, out: Path) -> str:
    """The line that a command prints after one shard."""
    return f"Shard {shard} of {out} is complete. When all are: searchlora merge {out}"


AcceptChangesOption = Annotated[
    bool, option("--accept-changes", "Continue although inputs differ from those of the earlier result.")
]


class DecisionFiles(NamedTuple):
    """Where else a decision is written."""

    junit: Annotated[Path | None, option("--junit FILE", "Write a JUnit XML file with one test case per rule.")] = None
    summary: Annotated[Path | None, option("--summary FILE", "Write a Markdown summary for a pull request.")] = None


class EvaluationOptions(NamedTuple):
    """The rows of an evaluation, and what is learned from."""

    split: SplitOption = "test"
    qrels: Annotated[
        Path | None, option("--qrels FILE", "Relevance judgments (qrels) that replace those of the dataset.")
    ] = None
    baseline_data: Annotated[
        Path | None,
        option(
            "--baseline-data FOLDER",
            "Dataset from whose training rows the baselines learn. Default: the evaluated dataset.",
        ),
    ] = None

    baseline_encoder: Annotated[
        str,
        option(
            "--baseline-encoder MODEL",
            "Frozen encoder from whose vectors baselines of intent and judgment learn; none: without them.",
        ),
    ] = "all-minilm-l6-v2"

    def read(self, **more: Any) -> VerbOptions:
        """The options of a verb, with further ones."""
        from searchlora.experiments.options import EvaluationOptions as VerbOptions

        encoder = None if self.baseline_encoder == "none" else self.baseline_encoder
        return VerbOptions(**{**self._asdict(), "baseline_encoder": encoder}, **more)


def takes(
    options: type[NamedTuple], parameter: str = "options"
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """A decorator of commands that share options: the fields of a named tuple, which is passed as a parameter.

    Examples:
        >>> class Output(NamedTuple):
        ...     as_json: JsonOption = False
        >>> @takes(Output)
        ... def command(name: str, options: Output) -> None:
        ...     print(name, options)
        >>> list(inspect.signature(command).parameters)
        ['name', 'as_json']
        >>> command(name="x", as_json=True)
        x Output(as_json=True)
    """
    hints, defaults = get_type_hints(options, include_extras=True), options._field_defaults
    more = {}
    for name in options._fields:
        default = defaults.get(name, inspect.Parameter.empty)
        more[name] = inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=hints[name])

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        own = inspect.signature(command, eval_str=True)

        def called(**values: Any) -> None:
            shared = options._make([values.pop(name) for name in more])
            command(**values, **{parameter: shared})

        others = [value for name, value in own.parameters.items() if name != parameter]
        called.__signature__ = own.replace(parameters=[*others, *more.values()])  # type: ignore[attr-defined]
        called.__doc__, called.__name__ = command.__doc__, command.__name__
        return called

    return decorate


def parse_key_values(texts: Sequence[str], option: str) -> dict[str, str]:
    """The pairs of `KEY=VALUE` texts.

    Examples:
        >>> parse_key_values(["a=1", "b=x=y"], "--option")
        {'a': '1', 'b': 'x=y'}
    """
    for text in texts:
        if "=" not in text:
            raise UsageError(f"'{text}' is not KEY=VALUE", where=option)
    return dict(text.split("=", 1) for text in texts)


def parse_named_files(texts: Sequence[str], what: str) -> dict[str, str]:
    """Name to file of several `NAME=FILE` texts.

    Examples:
        >>> parse_named_files(["umbrela=umbrela.qrels"], "judges")
        {'umbrela': 'umbrela.qrels'}
    """
    files: dict[str, str] = {}
    for text in texts:
        name, _, file = text.partition("=")
        if not (name and file):
            raise UsageError(f"'{text}' is not NAME=FILE", fix="For example --judge umbrela=umbrela.qrels.")
        if not name.isprintable() or len(name) > 100:
            raise UsageError(f"{name[:100]!r} is not a name of 1 to 100 printable characters")
        if name in files:
            raise UsageError(f"two {what} have one name", where=name)
        files[name] = file
    return files


def parse_numbers(text: str, option: str) -> list[float]:
    """The numbers of a comma-separated list.

    Examples:
        >>> parse_numbers("0.5,1,2", "--thresholds")
        [0.5, 1.0, 2.0]
    """
    try:
        return [float(number) for number in text.split(",")]
    except ValueError:
        raise UsageError(f"'{text}' is not a list of numbers separated by commas", where=option) from None


def parse_grades(text: str, option: str = "--scale") -> tuple[int, ...]:
    """The grades of a comma-separated scale.

    Examples:
        >>> parse_grades("0,1,2,3")
        (0, 1, 2, 3)
    """
    try:
        return tuple(int(grade) for grade in text.split(","))
    except ValueError:
        raise UsageError(
            f"the scale '{text}' is not a list of whole numbers", where=option, fix=f"For example {option} 0,1,2,3."
        ) from None


def corpus_of(corpus: Path, columns: Sequence[str]) -> Corpus:
    """The corpus with the columns that `--map` names."""
    from searchlora.data.collection import CorpusFile
    from searchlora.files import parse_field_map

    return CorpusFile(corpus, parse_field_map(columns)) if columns else corpus
