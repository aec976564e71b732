"""Recipe: the training settings besides the data, read from YAML. Unknown keys and values out of range are errors."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from datetime import date, datetime
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import Field, StringConstraints, field_validator, model_validator

from searchlora.recipe_reading import Method, Section, WithMethod

#: Largest rank of an adapter.
MAX_RANK = 1024

#: Name of a module, or the end of one: `q_proj`, `layers.3.mlp`. Never a regular expression.
ModuleName = Annotated[str, StringConstraints(pattern=r"\A[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*\z", max_length=256)]

#: Groups of linear layers, resolved for each base; see `adapters.target_modules`.
TargetGroup = Literal["all-linear", "qv", "qkv", "attention", "mlp"]

_ARGUMENT = re.compile(r"[a-z][a-z0-9_]{0,63}")


class Lora(Section):
    """The adapter: ΔW = (alpha / r) · B · A (Hu et al. 2021, arXiv:2106.09685)."""

    r: int = Field(16, ge=1, le=MAX_RANK, description="rank of the update")
    alpha: float = Field(32, gt=0, description="scale of the update, which is alpha / r times B · A")
    dropout: float = Field(0.0, ge=0, lt=1, description="dropout on the input of A; 0 is fastest")
    target_modules: TargetGroup | list[ModuleName] = Field(
        "all-linear",
        description="a group (`qv` and `qkv`: projections of attention; `attention`: also its output; `mlp`; "
        "`all-linear`), or a list of module names",
    )
    variant: Literal["lora", "rslora"] = Field(
        "lora",
        description="rslora: arXiv:2312.03732",
    )


#: Arguments of `apply_chat_template` that are not arguments of a template.
_RESERVED_ARGUMENTS = frozenset(
    {
        *("add_generation_prompt", "bos_token", "chat_template", "continue_final_message", "conversation"),
        *("documents", "eos_token", "max_length", "messages", "padding", "processor_kwargs", "raise_exception"),
        *("return_assistant_tokens_mask", "return_dict", "return_tensors", "sanitize_control_tokens", "self"),
        *("strftime_now", "tokenize", "tokenizer_kwargs", "tools", "truncation"),
    }
)


class PromptOptions(Section):
    """Date and arguments with which the base's chat template is rendered, in training and inference alike.

    They belong to an adapter: its manifest keeps them, so its prompts never change.

    Examples:
        >>> PromptOptions(template_kwargs={"enable_thinking": False}).template_kwargs
        {'enable_thinking': False}
    """

    date: str = Field(
        "2024-07-26", description="YYYY-MM-DD; templates that print today's date (Llama 3, gpt-oss) get this one"
    )
    template_kwargs: dict[str, bool | int | float | str | None] = Field(
        {}, max_length=32, description="further arguments of the chat template, for example enable_thinking: false"
    )

    @field_validator("date", mode="before")
    @classmethod
    def _iso_date(cls, value: Any) -> Any:
        """A date as YAML reads it, or its text."""
        if isinstance(value, datetime):
            raise ValueError("it has a time of day")
        if isinstance(value, date):
            return value.isoformat()
        try:
            if not isinstance(value, str) or date.fromisoformat(value).isoformat() != value:
                raise ValueError(value)
        except ValueError:
            raise ValueError("it is not written as year-month-day, like 2024-07-26") from None
        return value

    @field_validator("template_kwargs")
    @classmethod
    def _plain_names(cls, values: dict[str, Any]) -> dict[str, Any]:
        for name, value in values.items():
            if not _ARGUMENT.fullmatch(name) or name in _RESERVED_ARGUMENTS:
                raise ValueError(f"'{name[:64]}' is not an argument of a chat template")
            if isinstance(value, str) and len(value) > 1000:
                raise ValueError(f"'{name}' has more than 1,000 characters")
            if isinstance(value, float) and not math.isfinite(value):
                raise ValueError(f"'{name}' is {value}")
        return values


class Optim(Section):
    """The optimiser and its schedule."""

    learning_rate: float = Field(
        5e-4, gt=0, description="learning rate for LoRA; about ten times that of full fine-tuning"
    )
    full_learning_rate: float = Field(5e-5, gt=0, description="learning rate if all weights are trained")
    schedule: Literal["linear", "cosine", "constant", "constant_with_warmup"] = Field(
        "cosine", description="schedule of the learning rate"
    )
    warmup_ratio: float = Field(0.03, ge=0, lt=1, description="share of the steps in which the learning rate rises")
    weight_decay: float = Field(0.0, ge=0, description="weight decay of the optimiser")
    max_grad_norm: float = Field(1.0, gt=0, description="gradients are clipped to this norm")
    batch_size: int = Field(16, ge=1, description="rows per step and device")
    gradient_accumulation: int = Field(1, ge=1, description="batches per optimiser step")
    gradient_checkpointing: bool = Field(False, description="save memory by computing activations twice")
    epochs: float = Field(1.0, gt=0, description="passes over the training rows")
    max_steps: int | None = Field(None, ge=1, description="number of optimiser steps; overrides `epochs`")


class Loss(Section):
    """The training loss: label · L_label + ranking · L_ranking.

    L_label is the mean negative log-likelihood of the completion tokens in nats. L_ranking compares the scores of the
    rows of one group with their grades or with the scores of a teacher, and needs a task whose completions are grades.
    Both are divided by `temperature`. RankNet: Burges et al., Learning to Rank using Gradient Descent (ICML 2005).
    MarginMSE: Hofstätter et al., arXiv:2010.02666.
    """

    label: float = Field(1.0, ge=0, description="weight of the label loss")
    ranking: float = Field(0.0, ge=0, description="weight of the ranking loss over rows of one group; 0: none")
    ranking_loss: Literal["ranknet", "margin_mse"] = Field("ranknet", description="ranking loss over pairs")
    ranking_target: Literal["grade", "teacher"] = Field(
        "grade", description="what the ranking loss follows: the raters' grades, or the `teacher` of the rows"
    )
    teacher_scale: float = Field(
        1.0, gt=0, description="factor of a teacher's scores, whose deviation within a query is 1, in the ranking loss"
    )
    ranking_score: Literal["expected_grade", "log_odds"] = Field(
        "expected_grade",
        description="what the ranking loss ranks: the expected grade, or the log odds of a relevant grade",
    )
    temperature: float = Field(0.5, gt=0, description="divisor of scores and targets in the ranking loss")
    group_size: int = Field(4, ge=2, description="rows of one group that share a batch, with a ranking loss")
    soft_labels: bool = Field(
        False,
        description="train on the shares of the raters' grades instead of the merged grade, for rows with several",
    )

    @model_validator(mode="after")
    def _some_loss(self) -> Loss:
        if not self.label and not self.ranking:
            raise ValueError("loss.label and loss.ranking are both 0: nothing would be trained")
        return self


class Validation(Section):
    """Validation during training."""

    every_steps: int | None = Field(
        None, ge=1, description="steps between validations; null: about four in a training run"
    )
    rows: int = Field(64, ge=1, description="validation rows for the loss, drawn at random")
    generate_rows: int = Field(
        32, ge=0, description="validation rows, drawn at random, whose outputs are generated and evaluated by the task"
    )
    metric: str = Field("loss", description="measure that selects the best step: 'loss' or a measure of the task")
    patience: int | None = Field(None, ge=1, description="early stopping: number of validations without improvement")
    tune_rows: int | None = Field(
        None,
        ge=0,
        description="validation rows, drawn at random, on which values are tuned after training; null: all; 0: none",
    )

    @model_validator(mode="after")
    def _is_measured(self) -> Validation:
        if self.metric != "loss" and not self.generate_rows:
            raise ValueError(f"validation.metric={self.metric} needs outputs: set validation.generate_rows above 0")
        return self


class Checkpoints(Section):
    """Checkpoints with optimiser state, for `--resume`."""

    every_steps: int = Field(50, ge=1, description="steps between checkpoints")
    keep: int = Field(2, ge=1, description="number of checkpoints to keep")


class Improve(Section):
    """Rejection-sampling fine-tuning by `searchlora improve`: sample, reward, keep the best, train, repeat."""

    rounds: int = Field(2, ge=1, le=99, description="maximum number of rounds")
    samples: int = Field(8, ge=0, le=64, description="sampled candidates per row; they share one prefill")
    temperature: float = Field(1.0, gt=0, le=2, description="temperature of the samples")
    top_p: float = Field(0.95, gt=0, le=1, description="nucleus (top-p) of the samples")
    sample_base: bool = Field(
        False, description="sample in the first round also without an adapter; false: use the best outputs of the rules"
    )
    rows: int | None = Field(None, ge=1, description="training rows per round, drawn at random; null: all")
    reward: str | None = Field(None, description="a measure, such as nDCG@10, in place of the task's own reward")
    min_reward: float = Field(0.0, description="rows whose best candidate has no higher reward are skipped")
    unjudged: Literal["skip", "reference"] = Field(
        "skip", description="rows that cannot be rewarded: skip them, or train on their reference"
    )
    min_gain: float = Field(
        0.0, ge=0, description="of candidates that are within this of the best, the one that changes least wins"
    )
    kind_weight: float = Field(
        0.0, ge=0, description="weight of the effect over all rows of what a candidate changes, added to its reward"
    )
    titles: bool = Field(True, description="titles of relevant documents are candidates, if the input names them")
    start: Literal["base", "adapter"] = Field(
        "base", description="train each round from the base, or from the adapter that sampled"
    )
    validation_rows: int = Field(256, ge=1, description="validation rows with greedy outputs after each round")
    patience: int = Field(1, ge=1, description="stop after this number of rounds without a higher validation reward")


class Recipe(WithMethod):
    """Recipe of a prompted task: base model, method, prompt, LoRA, optimiser, validation."""

    base: str = Field(
        "smollm2-135m-instruct-q4_1", description="base model: hub id, folder, GGUF file or catalogue name"
    )
    method: Method = Field("qlora", description=WithMethod.model_fields["method"].description)
    precision: Literal["bf16", "fp32"] = Field(
        "bf16",
        description="precision of the base model; trained weights are held in fp32. A processor that cannot multiply"
        " bf16 computes in fp32",
    )
    prompt: PromptOptions = PromptOptions()
    lora: Lora = Lora()
    optim: Optim = Optim()
    loss: Loss = Loss()
    validation: Validation = Validation()
    checkpoints: Checkpoints = Checkpoints()
    improve: Improve = Improve()
    max_length: int = Field(1024, ge=8, description="maximum number of tokens of prompt and completion")
    too_long: Literal["error", "drop"] = Field(
        "error", description="rows longer than max_length: an error, or dropped and counted"
    )
    max_new_tokens: int = Field(64, ge=1, description="maximum number of generated tokens at inference")
    seed: int = Field(13, ge=0, lt=2**32, description="random seed of the training run")
    report_to: list[Literal["tensorboard", "trackio", "wandb"]] = Field(
        [], description="services that log the training run"
    )

    @model_validator(mode="after")
    def _batches_hold_groups(self) -> Recipe:
        size, group = self.optim.batch_size, self.loss.group_size
        if self.loss.ranking and size < group:
            raise ValueError(f"optim.batch_size = {size} is less than loss.group_size = {group}")
        return self


class EncoderLora(Lora):
    """As `Lora`, with the names of the attention projections of BERT."""

    target_modules: TargetGroup | list[ModuleName] = Field(
        ["query", "key", "value"], description="a group as for an LLM, or module names"
    )


class EncoderOptim(Optim):
    """As `Optim`, with larger batches: in a contrastive loss, the other rows of a batch are negatives."""

    learning_rate: float = Field(1e-3, gt=0, description="learning rate for LoRA")
    batch_size: int = Field(64, ge=2, description="rows per step and device")
    warmup_ratio: float = Field(0.1, ge=0, lt=1, description="share of the steps in which the learning rate rises")


class HardNegatives(Section):
    """Hard negatives, mined before training; see `retrieval.mining`."""

    source: Literal["none", "bm25", "model", "both"] = Field(
        "none", description="retriever of the candidates: BM25, the base model, or both alternately"
    )
    per_query: int = Field(
        1, ge=0, description="negatives per row; those in the record come first; 0: those of the batch only"
    )
    depth: int = Field(50, ge=1, description="number of ranks searched for negatives")
    skip: int = Field(0, ge=0, description="number of top ranks to skip, since they may be unjudged positives")
    margin: float = Field(
        0.95, gt=0, le=1, description="candidates with more than this share of the positive's score are excluded"
    )


class QuerySide(Section):
    """What the query side learns beside the pairs, with `sides: query`."""

    teacher: str | None = Field(
        None,
        description="adapter of both sides in the store; its scores of the documents of all rows are learned, too",
    )
    weight: float = Field(
        1.0, gt=0, description="weight of the cross-entropy to the teacher's probabilities, beside that of the pairs"
    )
    titles: int | None = Field(
        None,
        ge=0,
        description="number of rows per document in which its title is the query; null: 1, for at most as many"
        " documents as there are pairs",
    )
    made: int | None = Field(
        None,
        ge=0,
        description="number of rows per document whose query is made of its title and words of its text; null:"
        " likewise, for documents with a title",
    )


class EncoderValidation(Section):
    """Validation during training, on a separate copy of the model."""

    every_steps: int | None = Field(
        None, ge=1, description="steps between validations; null: about four in a training run"
    )
    rows: int = Field(256, ge=2, description="validation rows; each ranks the texts of all of them")
    metric: str = Field("loss", description="measure that selects the best step: 'loss' or a measure of the task")
    patience: int | None = Field(None, ge=1, description="early stopping: number of validations without improvement")


class EncoderRecipe(WithMethod):
    """Recipe of an encoder task: base encoder, method, LoRA, loss, optimiser, validation. Training is in float32."""

    base: str = Field("all-minilm-l6-v2", description="encoder: hub id, folder or catalogue name")
    sides: Literal["both", "query"] = Field(
        "both",
        description="query: the adapter encodes queries only; documents stay as the base encodes them, so an index is "
        "kept (arXiv:2601.04646)",
    )
    query_side: QuerySide = QuerySide()
    lora: EncoderLora = EncoderLora()
    optim: EncoderOptim = EncoderOptim()
    temperature: float = Field(0.05, gt=0, description="divisor of the cosine similarities")
    negatives: HardNegatives = HardNegatives()
    classifier: Literal["centroid", "knn", "linear"] = Field(
        "centroid", description="classifier on the vectors, for records with labels"
    )
    validation: EncoderValidation = EncoderValidation()
    checkpoints: Checkpoints = Checkpoints()
    max_tokens: int = Field(
        256, ge=8, description="maximum number of tokens of a text in training; longer texts are truncated"
    )
    seed: int = Field(13, ge=0, lt=2**32, description="random seed of the training run")
    report_to: list[Literal["tensorboard", "trackio", "wandb"]] = Field(
        [], description="services that log the training run"
    )

    @model_validator(mode="after")
    def _known_combination(self) -> EncoderRecipe:
        if self.sides == "query" and self.is_full:
            raise ValueError("sides = query needs method lora or qlora")
        side = self.query_side
        if self.sides == "both" and (side.teacher or side.titles or side.made):
            raise ValueError("query_side needs sides = query")
        return self

    @property
    def precision(self) -> Literal["fp32"]:
        """Precision of the computation."""
        return "fp32"


AnyRecipe: TypeAlias = Recipe | EncoderRecipe

load_recipe, parse_recipe = Recipe.load, Recipe.parse
load_encoder_recipe, parse_encoder_recipe = EncoderRecipe.load, EncoderRecipe.parse


#: Parameters up to which learning rates hold -> the largest of LoRA; that of full fine-tuning is a tenth of it.
_RATES = ((4e8, math.inf), (5e9, 5e-4), (13.5e9, 2e-4), (math.inf, 1e-4))


def for_size(default: Mapping[str, Any], parameters: int) -> dict[str, Any]:
    """A task's recipe for a base of a size: its learning rates, or lower ones for a larger base.

    The tasks' own rates were measured on 135 million parameters. Above 400 million, the rate of LoRA is at most 5e-4;
    above 5 billion 2e-4, and above 13.5 billion 1e-4, as QLoRA has for 7B to 13B and for larger models
    (arXiv:2305.14314, table 9). LoRA's is ten times that of full fine-tuning and almost independent of the rank
    (Schulman et al., LoRA Without Regret, 2025).

    Examples:
        >>> for_size({"optim": {"learning_rate": 1e-3}}, 8_000_000_000)["optim"]
        {'learning_rate': 0.0002, 'full_learning_rate': 2e-05}
    """
    largest = next(rate for limit, rate in _RATES if parameters <= limit)
    if largest == math.inf:
        return dict(default)
    optim = dict(default.get("optim", {}))
    for name, rate in (("learning_rate", largest), ("full_learning_rate", largest / 10)):
        optim[name] = min(optim.get(name, Optim.model_fields[name].default), rate)
    return {**default, "optim": optim}
