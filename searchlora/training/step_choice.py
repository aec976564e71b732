"""Batch size, accumulation and gradient checkpointing that give a number of tokens per step in the memory there is."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from searchlora.errors import TrainingError
from searchlora.files import atomic_text
from searchlora.recipe import Recipe
from searchlora.training.memory import PROCESS_BYTES, TrainedModel, batch_size
from searchlora.training.token_rows import TokenRows

_FILE = "step.json"

#: Share of the free memory, less what libraries take, that a choice may fill; the rest is for what is not computed.
_SHARE = 0.9

#: Rows of a batch below which gradient checkpointing, which takes about a third more time, is better than few rows.
_FEW_ROWS = 4


@dataclass(frozen=True)
class StepChoice:
    """What was chosen for a training run; fields as the keys of `recipe.optim`."""

    batch_size: int
    gradient_accumulation: int
    gradient_checkpointing: bool

    def applied(self, recipe: Recipe) -> Recipe:
        """The recipe with what was chosen."""
        optim = recipe.optim.model_copy(update=asdict(self))
        return recipe.model_copy(update={"optim": optim})

    def sentence(self, tokens: float, processes: int = 1) -> str:
        """What was chosen, in words. `tokens`: mean number of a row."""
        rows = self.batch_size * self.gradient_accumulation * processes
        with_or_without = "with" if self.gradient_checkpointing else "without"
        return (
            f"A step trains on {rows} rows of {tokens:.0f} tokens on average: {self.gradient_accumulation} batches of "
            f"{self.batch_size} rows{' in each process' * (processes > 1)}, {with_or_without} gradient checkpointing."
        )


def choose_step(model: TrainedModel, rows: TokenRows, free: int, processes: int = 1) -> StepChoice:
    """The largest batches that fit, without gradient checkpointing unless only a few rows would fit.

    Batch size times accumulation times the mean length of the rows is `optim.tokens_per_step`, up to rounding.

    Args:
        model: Its recipe has `optim.tokens_per_step`.
        free: Bytes of free memory for a process.
        processes: That train together.

    Raises:
        TrainingError: where one row does not fit.
    """
    recipe = model.recipe
    assert recipe.optim.tokens_per_step is not None
    least = recipe.loss.group_size if recipe.loss.ranking else 1
    wanted = max(least, round(recipe.optim.tokens_per_step / rows.lengths.mean() / processes))
    longest = batch_size(rows, min(wanted, 16))
    memory = max(0, int(_SHARE * (free - PROCESS_BYTES)))

    def largest(checkpointing: bool) -> int | None:
        """Rows of a batch: all that are wanted, or as many as fit beside the gradients of the batches before."""
        one, several = (
            model.with_optim(gradient_checkpointing=checkpointing, gradient_accumulation=batches) for batches in (1, 2)
        )
        whole = one.largest_batch(memory, longest)
        return whole if whole is None or whole >= wanted else several.largest_batch(memory, longest)

    fitting = 0 if recipe.optim.gradient_checkpointing else largest(False) or 0
    checkpointing = fitting < min(wanted, max(least, _FEW_ROWS))
    if checkpointing:
        found = largest(True)
        fitting = least if found is None else found  # where activations are not known, as few as possible
    if fitting < least:
        alone = model.with_optim(gradient_checkpointing=True, gradient_accumulation=1 if wanted <= least else 2)
        need = alone.memory(longest.with_rows(least)).peak
        raise TrainingError(
            f"{least} rows of {longest.length} tokens need {need / 1e9:.2f} GB with gradient checkpointing, and "
            f"{memory / 1e9:.2f} GB are free",
            where="optim.tokens_per_step",
            fix="Lower max_length with too_long=drop, or train a smaller base or by method=qlora.",
        )
    accumulation = -(-wanted // min(wanted, fitting))
    return StepChoice(max(least, -(-wanted // accumulation)), accumulation, checkpointing)


def step_of_recipe(recipe: Recipe) -> dict[str, int | bool]:
    """What a recipe with a choice applied has, for the manifest."""
    return {name: getattr(recipe.optim, name) for name in StepChoice.__dataclass_fields__}


def read_choice(folder: Path) -> StepChoice | None:
    """What was chosen for the training run in a folder; None if nothing was."""
    try:
        return StepChoice(**json.loads((folder / _FILE).read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError) as error:
        raise TrainingError(f"cannot be read ({error})", where=str(folder / _FILE), fix="Use --restart.") from None


def write_choice(folder: Path, choice: StepChoice) -> None:
    with atomic_text(folder / _FILE) as file:
        json.dump(asdict(choice), file)
