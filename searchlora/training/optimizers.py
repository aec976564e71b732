"""Optimisers of the variants of LoRA, as PEFT implements them."""

from __future__ import annotations

from typing import Any

from peft.optimizers import create_lorafa_optimizer, create_loraplus_optimizer

from searchlora.recipe import AnyRecipe


def lora_fa_optimizer(model: Any, recipe: AnyRecipe) -> Any:
    """LoRA-FA (arXiv:2308.03303): A is frozen, and the gradient of B is projected accordingly.

    Args:
        model: A `peft.PeftModel` from `new_adapter`, whose A is frozen.
    """
    lora, optim = recipe.lora, recipe.optim
    return create_lorafa_optimizer(
        model, r=lora.r, lora_alpha=lora.alpha, lr=optim.learning_rate, weight_decay=optim.weight_decay
    )


def lora_plus_optimizer(model: Any, optimizer_class: Any, recipe: AnyRecipe, settings: dict[str, Any]) -> Any:
    """LoRA+ (arXiv:2402.12354): a learning rate of B that is `lora.plus_ratio` times that of A.

    Args:
        model: A `peft.PeftModel`.
        optimizer_class: Made with `settings`: its learning rate and betas.
    """
    return create_loraplus_optimizer(
        model,
        optimizer_class,
        loraplus_lr_ratio=recipe.lora.plus_ratio or 1.0,
        loraplus_weight_decay=recipe.optim.weight_decay,
        **settings,
    )
