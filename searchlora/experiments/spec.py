"""The specification of an experiment: systems, topics, qrels, measures, and an optional policy; read from YAML."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from searchlora.data.collection import Corpus, CorpusFile
from searchlora.errors import DataError, UsageError
from searchlora.eval.judgments.sources import Source as GradeSource
from searchlora.eval.measures import RETRIEVAL_MEASURES
from searchlora.eval.policy import Policy, read_policy
from searchlora.files import read_bytes
from searchlora.files.yaml_text import parse_yaml
from searchlora.inference.settings import EngineSettings
from searchlora.pipelines.config import CorpusSettings, Parameter


def file_name(system: str) -> str:
    """The file name of a system.

    Examples:
        >>> file_name("base zero-shot")
        'base-zero-shot'
    """
    return system.replace(" ", "-").replace("/", "-")


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


def _folder(info: ValidationInfo) -> Path:
    """The folder of the experiment file, against which relative paths are resolved; empty for none."""
    return Path((info.context or {}).get("folder", ""))


#: A path that is relative to the experiment file.
Located: TypeAlias = Annotated[Path, AfterValidator(lambda path, info: _folder(info) / path)]


class Source(_Strict):
    """An input file; a plain string is the path, and the format is detected from name and content.

    Attributes:
        source: Of qrels without a card: who or what graded. A card that says otherwise is an error.
    """

    path: Located
    format: str | None = None
    thresholds: tuple[float, ...] | None = None
    source: GradeSource | None = None

    @model_validator(mode="before")
    @classmethod
    def _path_alone(cls, value: Any) -> Any:
        return {"path": value} if isinstance(value, str | Path) else value


class SystemSettings(_Strict):
    """One system: a run file, or a pipeline or an adapter that computes the run.

    Attributes:
        run: A run file.
        pipeline: A YAML file or a built-in pipeline.
        set: Parameters of the pipeline; null leaves a slot empty.
        adapter: A reference to an adapter that writes the query; the stages of `Experiment.retrieval` follow it.
        engine: Where the adapter stages of this system are computed; None: the experiment's engine.
    """

    run: Source | None = None
    pipeline: str | None = None
    set: dict[str, Parameter] = {}
    adapter: str | None = None
    engine: EngineSettings | None = None

    @field_validator("pipeline")
    @classmethod
    def _located(cls, value: str | None, info: ValidationInfo) -> str | None:
        return str(_folder(info) / value) if value is not None and Path(value).suffix else value

    @model_validator(mode="after")
    def _one_kind(self) -> SystemSettings:
        present = [name for name in ("run", "pipeline", "adapter") if getattr(self, name) is not None]
        if len(present) != 1:
            raise ValueError(f"a system has exactly one of run, pipeline, adapter, not {', '.join(present) or 'none'}")
        if self.set and self.pipeline is None:
            raise ValueError("set belongs to a pipeline")
        if self.engine is not None and self.run is not None:
            raise ValueError("engine belongs to a pipeline or an adapter, not to a run file")
        return self


class Experiment(_Strict):
    """An experiment: systems, topics, qrels and measures.

    Args:
        name: One word, for files and headings.
        topics: The topics; results can be sliced by fields other than `query`.
        qrels: The judgments. A card beside the file names their source.
        corpus: Documents: a file, or `{file, map}` as in a pipeline; required by pipelines and adapters, and for titles
            in the report.
        systems: System name -> system, in the order of tables.
        baseline: The system that every other system is compared with.
        candidate: The system under test, compared with every other system; the policy decides on it.
        measures: Names such as `nDCG@10`, or any measure of ir-measures; the first is the headline.
        tested: Measures whose differences are tested; p values are corrected for their number. Empty: all.
        relevant: The lowest grade that counts as relevant in binary measures.
        scale: The valid grades. A document with another label counts as unjudged, and the notes count it.
        slices: Topic fields to slice by.
        cluster: Topic field with the group of dependent topics.
        correction: Correction of p values for multiple comparisons: Holm or Benjamini-Hochberg.
        retrieval: Stages after an adapter that writes the query.
        engine: Where adapter stages are computed; None: the engine of the pipeline, else this process.
        policy: Rules, or a file with rules.
    """

    name: str = Field(pattern=r"^[\w.-]+$")
    topics: Source
    qrels: Source
    corpus: Located | CorpusSettings | None = None
    systems: dict[str, SystemSettings] = Field(min_length=1)
    baseline: str | None = None
    candidate: str | None = None
    measures: tuple[str, ...] = Field(RETRIEVAL_MEASURES, min_length=1)
    tested: tuple[str, ...] = ()
    relevant: int = Field(1, ge=1)
    scale: tuple[int, ...] | None = Field(None, min_length=1)
    slices: tuple[str, ...] = ()
    cluster: str | None = None
    correction: Literal["holm", "bh"] = "holm"
    retrieval: tuple[dict[str, dict[str, Any]], ...] = ({"bm25": {}},)
    engine: EngineSettings | None = None
    policy: Policy | None = None

    @property
    def documents(self) -> Corpus | None:
        """Where the documents are read from; None without a corpus."""
        hint = "say which holds it: corpus: {{file: FILE, map: {{{field}: COLUMN}}}}"
        if isinstance(self.corpus, CorpusSettings):
            return replace(self.corpus.below(Path()), hint=hint)
        return CorpusFile(self.corpus, {}, hint) if self.corpus is not None else None

    @field_validator("corpus")
    @classmethod
    def _located(cls, value: Path | CorpusSettings | None, info: ValidationInfo) -> Path | CorpusSettings | None:
        if isinstance(value, CorpusSettings):
            return value.model_copy(update={"file": str(_folder(info) / value.file)})
        return value

    @model_validator(mode="before")
    @classmethod
    def _policy_of_a_file(cls, value: Any, info: ValidationInfo) -> Any:
        if isinstance(value, dict) and isinstance(value.get("policy"), str | Path):
            return {**value, "policy": read_policy(_folder(info) / value["policy"])}
        return value

    @model_validator(mode="after")
    def _known_systems(self) -> Experiment:
        for role in ("baseline", "candidate"):
            name = getattr(self, role)
            if name is not None and name not in self.systems:
                raise ValueError(f"the {role} '{name}' is not one of the systems: {', '.join(self.systems)}")
        if invalid := [name for name in self.systems if not (name.strip() and name.isprintable() and len(name) <= 100)]:
            raise ValueError(f"the system {invalid[0]!r} needs a name of 1 to 100 printable characters")
        files: dict[str, str] = {}
        for name in (name for name, system in self.systems.items() if system.run is None):
            other = files.setdefault(file_name(name).casefold(), name)
            if other != name:
                raise ValueError(f"the runs of '{other}' and '{name}' would have the same file name; rename one")
        if self.baseline is None and self.candidate is None and len(self.systems) > 1:
            raise ValueError("several systems need a baseline or a candidate to be compared with")
        if unknown := [name for name in self.tested if name not in self.measures]:
            raise ValueError(f"'{unknown[0]}' is tested but not measured")
        if self.policy is not None and self.candidate is None:
            raise ValueError("a policy needs a candidate to decide on")
        roles = [role for role in ("base", "incumbent") if self.policy is not None and role in self.policy.beat]
        if self.baseline is None and (absent := [role for role in roles if role not in self.systems]):
            raise ValueError(
                f"the policy asks to beat '{absent[0]}', which is the baseline of an experiment, and there is none; "
                "give a baseline, or systems of the experiment under 'beat'"
            )
        return self


def read_experiment(path: str | Path) -> Experiment:
    """Read an experiment file; relative paths are resolved against its folder.

    Raises:
        UsageError: if the file is missing or not YAML, or a key is invalid; names the key.
        PipelineError: for an engine whose `api_key_env` a file may not name.
    """
    file = Path(path)
    try:
        content = parse_yaml(read_bytes(file))
    except DataError as error:
        raise UsageError(f"the experiment cannot be read: {error.what}", where=str(path), fix=error.fix) from None
    except ValueError as error:
        raise UsageError(f"the experiment {error}", where=str(path)) from None
    try:
        spec = Experiment.model_validate(content, context={"folder": file.parent})
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"]) or "the file"
        unknown = first["type"] == "extra_forbidden"
        fix = f"Keys of an experiment: {', '.join(Experiment.model_fields)}." if unknown else None
        message = first["msg"].removeprefix("Value error, ")
        raise UsageError(f"'{key}': {message[0].lower()}{message[1:]}", where=str(path), fix=fix) from None
    for engine in (spec.engine, *(system.engine for system in spec.systems.values())):
        if engine is not None:
            engine.check_in_file(str(path))
    return spec
