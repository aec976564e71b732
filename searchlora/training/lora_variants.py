"""Variants of LoRA: the initialisation of EVA and the optimiser of LoRA-FA, as PEFT implements them."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import Any

from searchlora.errors import RecipeError
from searchlora.recipe import AnyRecipe

#: Batches from which the singular vectors are computed; they are repeated until the vectors converge.
_BATCHES = 32


def lora_fa_optimizer(model: Any, recipe: AnyRecipe) -> Any:
    """LoRA-FA (arXiv:2308.03303): A is frozen, and the gradient of B is projected accordingly.

    Args:
        model: A `peft.PeftModel` from `new_adapter`, whose A is frozen.
    """
    from peft.optimizers import create_lorafa_optimizer

    lora, optim = recipe.lora, recipe.optim
    return create_lorafa_optimizer(
        model, r=lora.r, lora_alpha=lora.alpha, lr=optim.learning_rate, weight_decay=optim.weight_decay
    )


def initialize_eva(model: Any, plain: Any, batches: Iterable[Any], recipe: AnyRecipe) -> None:
    """EVA (arXiv:2410.07170): set A of a new adapter to singular vectors of each layer's inputs.

    Its ranks are distributed over the layers by explained variance.

    Args:
        model: Returned by `new_adapter` with the variant `eva`; changed in place.
        plain: The same on a base that is not quantised, which runs the forward passes; `model` itself if it is not.
        batches: Batches of model inputs with `attention_mask`.

    Raises:
        RecipeError: for batches with fewer tokens than the singular vectors that each layer needs.
    """
    import torch
    from peft.tuners.lora.eva import get_eva_state_dict, initialize_lora_eva_weights

    config = plain.peft_config["default"]
    narrowest = min(value.shape[1] for name, value in plain.named_parameters() if ".lora_A." in name)
    config.eva_config.rho = max(1.0, min(config.eva_config.rho, narrowest / recipe.lora.r))
    needed = round(config.eva_config.rho * recipe.lora.r)
    usable = [
        {name: value.to(plain.device) for name, value in batch.items() if isinstance(value, torch.Tensor)}
        for batch in itertools.islice(
            (batch for batch in batches if int(batch["attention_mask"].sum()) > needed), _BATCHES
        )
    ]
    if not usable or recipe.lora.r > narrowest:
        raise RecipeError(
            f"lora.variant = eva with lora.r = {recipe.lora.r} needs batches of more than {needed} tokens, and layers "
            f"of {recipe.lora.r} inputs or more",
            where="recipe",
            fix="Lower lora.r, or raise optim.batch_size.",
        )
    state = get_eva_state_dict(plain, usable, forward_fn=_forward, show_progress_bar=False)
    initialize_lora_eva_weights(model, eva_state_dict=state)
    for name, value in model.named_parameters():
        if "lora_" in name:  # PEFT made them anew in the precision of the base
            value.data = value.data.float()
            value.requires_grad_(True)
    model.train()


def _forward(model: Any, inputs: dict[str, Any]) -> None:
    """A forward pass with as few logits as possible."""
    is_llm = model.peft_config["default"].task_type == "CAUSAL_LM"
    model(**inputs, **({"logits_to_keep": 1, "use_cache": False} if is_llm else {}))
