"""Pipeline files (YAML), and the pipelines that come with the package."""

from __future__ import annotations

import shlex
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

from pydantic import BaseModel, Field, ValidationError, field_validator

from searchlora.data.collection import Corpus, CorpusFile
from searchlora.errors import DataError, PipelineError
from searchlora.files import read_bytes
from searchlora.files.yaml_text import parse_yaml
from searchlora.inference.settings import EngineSettings, engine_settings
from searchlora.pipelines.stages.bm25 import Bm25Settings
from searchlora.pipelines.stages.kinds import stage_class, stage_classes, stage_names
from searchlora.pipelines.stages.stage import Settings, StageSettings

_READY = Path(__file__).parent

#: Value of a parameter; None for an adapter leaves its slot empty. An object is for keys such as `filter_by`.
Parameter: TypeAlias = str | int | float | dict[str, Any] | None

Model = TypeVar("Model", bound=BaseModel)


class CorpusSettings(Settings):
    """`corpus: {file: products.jsonl, map: {id: sku, text: [name, description]}}`: documents in a file of your own.

    `map` names the columns that hold `id`, `title` and `text`. A corpus that needs no map is just the name of the file,
    or of an index folder (`searchlora index build`).
    """

    file: str = Field(min_length=1, description="relative to the pipeline file")
    map: dict[str, str | list[str]] = Field(
        default_factory=dict, description="field -> its column, or a list of columns that are joined"
    )

    @field_validator("map")
    @classmethod
    def _named(cls, value: dict[str, str | list[str]]) -> dict[str, str | list[str]]:
        for name, columns in value.items():
            if not name or not columns or not all([columns] if isinstance(columns, str) else columns):
                raise ValueError(f"the field '{name}' has no column")
        return value

    def below(self, folder: Path) -> CorpusFile:
        """The documents, with the path resolved against `folder`."""
        columns = {name: (value,) if isinstance(value, str) else tuple(value) for name, value in self.map.items()}
        return CorpusFile(folder / self.file, columns, "map: {{{field}: COLUMN}}")


class PipelineFile(Settings):
    """The keys of a pipeline file; a value `$name` refers to a parameter."""

    name: str = Field(pattern=r"^[\w.-]+$", description="one word")
    parameters: dict[str, Parameter] = Field(
        default_factory=dict, description="defaults of the values `$name`, changed by `--set name=value`"
    )
    corpus: str | dict[str, Any] | None = Field(
        None, description="documents to search, relative to the pipeline file; see [corpus](#corpus)"
    )
    engine: dict[str, Any] | None = Field(
        None, description="where the adapter stages are computed; see [engine](#engine); default: this process"
    )
    stages: list[dict[str, dict[str, Any]]] = Field(min_length=1, description="executed in this order")


@dataclass(frozen=True)
class PipelineConfig:
    """A pipeline as configured, with parameters substituted."""

    name: str
    source: str
    stages: Sequence[StageSettings]
    corpus: Corpus | None = None  # the documents that the file names, or None
    parameters: Mapping[str, Parameter] = field(default_factory=dict)  # parameter -> value
    overrides: Sequence[str] = ()

    @property
    def index_options(self) -> str:
        """The options of `searchlora index` that name the pipeline."""
        words = ["--pipeline", self.source, *(word for override in self.overrides for word in ("--set", override))]
        return shlex.join(words)


def ready_pipelines() -> list[str]:
    """The names of the pipelines that come with the package.

    Examples:
        >>> ready_pipelines()[:4]
        ['answers', 'answers_judged', 'bm25', 'conversational_search']
    """
    return sorted(file.stem for file in _READY.glob("*.yaml"))


def read_pipeline(
    pipeline: str | Path, overrides: Sequence[str] = (), engine: EngineSettings | None = None
) -> PipelineConfig:
    """Read a pipeline file or a built-in pipeline.

    Examples:
        >>> rerank = read_pipeline("rerank", ["depth=50"])
        >>> rerank.name, len(rerank.stages), rerank.stages[1].k
        ('rerank', 3, 50)
    """
    path, file = _read(pipeline)
    parameters = _overridden(file.parameters, overrides, str(path))
    stages = parse_stages(file.stages, str(path), parameters)
    if engine is None and file.engine is not None:
        where = f"{path}, engine"
        engine = engine_settings(_substituted(file.engine, parameters, where), where)
    return PipelineConfig(
        file.name,
        str(pipeline),
        [stage.with_default_engine(engine) for stage in stages] if engine is not None else stages,
        _corpus(file.corpus, path, parameters),
        parameters,
        tuple(overrides),
    )


def _read(pipeline: str | Path) -> tuple[Path, PipelineFile]:
    """The path and the content of a pipeline file, whose stages are not read yet."""
    path = pipeline_path(pipeline)
    try:
        content = parse_yaml(read_bytes(path))
    except DataError as error:
        raise PipelineError(
            f"there is no pipeline '{pipeline}'" if not path.exists() else f"the pipeline cannot be read: {error.what}",
            where=None if not path.exists() else str(path),
            fix=f"Give a YAML file, or one of: {', '.join(ready_pipelines())}.",
        ) from None
    except ValueError as error:
        raise PipelineError(str(error), where=str(path)) from None
    return path, _validated(PipelineFile, content, str(path))


def read_pipelines(
    pipelines: Sequence[str | Path], overrides: Sequence[str] = ()
) -> Iterator[tuple[str | Path, PipelineConfig]]:
    """Read several pipelines; an override is for those that have its parameter. Arguments as `read_pipeline`."""
    # Defaults of parameters need not be valid, so no stage is read yet.
    parameters = {pipeline: _read(pipeline)[1].parameters.keys() for pipeline in pipelines}
    for pipeline in pipelines:
        others = set().union(*(keys for other, keys in parameters.items() if other != pipeline)) - parameters[pipeline]
        own = [override for override in overrides if override.partition("=")[0] not in others]
        yield pipeline, read_pipeline(pipeline, own)


def _corpus(value: str | dict[str, Any] | None, path: Path, parameters: Mapping[str, Any]) -> Corpus | None:
    if value is None:
        return None
    where = f"{path}, corpus"
    values = _substituted({"file": value} if isinstance(value, str) else value, parameters, where)
    return _validated(CorpusSettings, values, where).below(path.parent)


def pipeline_path(pipeline: str | Path) -> Path:
    """The file of a pipeline: a path, the name of a built-in pipeline, or the name of a YAML file here."""
    path = Path(pipeline)
    if not path.suffix and str(pipeline) in ready_pipelines():
        return _READY / f"{pipeline}.yaml"
    beside = path.with_name(f"{path.name}.yaml") if path.name else path
    return beside if not path.is_file() and beside.is_file() else path


def parse_stages(
    stages: Sequence[Mapping[str, Mapping[str, Any]]], where: str, parameters: Mapping[str, Any] | None = None
) -> list[StageSettings]:
    """The settings of the stages in the list `stages` of a pipeline file, without empty slots, see `is_empty_slot`.

    `parameters`: Parameter name -> value.

    Examples:
        >>> stages = [{"adapter": {"name": "$judge"}}, {"bm25": {"k": 10}}]
        >>> [type(stage).__name__ for stage in parse_stages(stages, "example", {"judge": None})]
        ['Bm25Settings']
    """
    parsed = [
        _stage(stage, parameters or {}, f"{where}, stage {number}")
        for number, stage in enumerate(stages, 1)
        if not is_empty_slot(stage, parameters or {})
    ]
    if stages and not parsed:
        raise PipelineError("no stage is left without the empty slots", where=where, fix="Fill a slot with --set.")
    return parsed


def is_empty_slot(stage: Any, parameters: Mapping[str, Any]) -> bool:
    """Whether a stage of a pipeline file is left out: its `slot_key` is null, itself or by a parameter."""
    kind, settings = next(iter(stage.items())) if isinstance(stage, Mapping) and len(stage) == 1 else ("", None)
    key = stage_class(kind).slot_key if kind in stage_names() else None
    if key is None or not isinstance(settings, Mapping) or key not in settings:
        return False
    name = settings[key]
    if isinstance(name, str) and name.startswith("$"):
        return name[1:] in parameters and parameters[name[1:]] is None
    return name is None


def bm25_settings(**settings: Any) -> Bm25Settings:
    """Settings of a BM25 stage. Raises `PipelineError`, which names the invalid key."""
    return _validated(Bm25Settings, settings, "bm25")


def _stage(stage: Any, parameters: Mapping[str, Any], where: str, *, part: bool = False) -> StageSettings:
    content = dict(stage) if isinstance(stage, Mapping) else {str(stage): None}
    kind, values = next(iter(content.items()), ("", None))
    kinds = (
        [kind for kind, model in stage_classes(skipped=lambda _: None).items() if model.fusible]
        if part
        else stage_names()
    )
    if len(content) != 1 or kind not in kinds or not isinstance(values, Mapping):
        raise PipelineError(
            f"{list(content)} is not one kind of stage with its settings",
            where=where,
            fix=f"A stage is one of: {', '.join(kinds)}, as in '- bm25: {{k: 100}}'.",
        )
    model = stage_class(kind, where)
    settings = _substituted(values, parameters, where, model.literal)
    if isinstance(settings.get("of"), list):
        settings["of"] = [
            _stage(inner, parameters, f"{where}, of {number}", part=True)
            for number, inner in enumerate(settings["of"], 1)
        ]
    validated = _validated(model, settings, where)
    validated.check_file(where)
    return validated


def _validated(model: type[Model], content: Any, where: str) -> Model:
    try:
        return model.model_validate(content, context=where)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"]) or "the file"
        known = f"Known keys: {', '.join(sorted(model.model_fields))}." if first["type"] == "extra_forbidden" else None
        raise PipelineError(f"'{key}': {first['msg'].lower()}", where=where, fix=known) from None


def _overridden(defaults: Mapping[str, Any], overrides: Sequence[str], where: str) -> dict[str, Any]:
    parameters = dict(defaults)
    for override in overrides:
        key, equals, value = override.partition("=")
        if not equals or key not in parameters:
            raise PipelineError(
                f"'{override}' sets no parameter", where=where, fix=f"Parameters: {', '.join(parameters) or 'none'}."
            )
        try:
            parameters[key] = parse_yaml(value)
        except ValueError:
            raise PipelineError(f"'{value}' is not a YAML value", where=f"--set {key}") from None
    return parameters


def _substituted(
    settings: Mapping[str, Any], parameters: Mapping[str, Any], where: str, literal: Collection[str] = ()
) -> dict[str, Any]:
    """The settings with the values of parameters, also in mappings and lists under keys that are not `literal`.

    The parts of a stage, under `of`, are read as stages.
    """

    def value_of(value: Any, key: str) -> Any:
        if isinstance(value, str) and value.startswith("$"):
            if value[1:] not in parameters:
                raise PipelineError(f"'{key}' refers to the parameter '{value}', which is not declared", where=where)
            return parameters[value[1:]]
        if isinstance(value, Mapping):
            return _substituted(value, parameters, f"{where}, {key}")
        return [value_of(item, key) for item in value] if isinstance(value, list) else value

    return {
        key: value if key == "of" or (key in literal and not isinstance(value, str)) else value_of(value, key)
        for key, value in settings.items()
    }
