"""LoRA modules on a base model: create a trainable adapter, save it, and attach a saved one.

All adapter weights are attached here. PEFT's own `load_adapter` silently overwrites an adapter of the same name, hides
keys that match nothing (`strict=False`), does not activate the adapter, and asks the hub for missing files.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from searchlora.adapters.peft_folder import WEIGHTS, lora_settings, read_config, read_weights, write_folder
from searchlora.adapters.target_modules import target_modules
from searchlora.errors import MissingKey, NameTaken, RecipeError, SearchloraError, UnexpectedKey, some
from searchlora.models.libraries import quiet
from searchlora.models.resolve import public_name
from searchlora.recipe import AnyRecipe

if TYPE_CHECKING:
    from searchlora.adapters.stored import StoredAdapter


def new_adapter(model: Any, recipe: AnyRecipe) -> Any:
    """Add a new trainable adapter named `default` to a base.

    Args:
        model: A base from `load_model` that has run no forward pass, or an encoder from `load_encoder`, which is
            changed in place.

    Returns:
        A `peft.PeftModel` whose A and B are fp32 and require gradients; all other parameters are frozen.

    Raises:
        RecipeError: for target modules that the base does not have, the output layer among them.
    """
    from peft import LoraConfig, get_peft_model

    lora = recipe.lora
    encoder = _transformer(model) is not model
    config = LoraConfig(
        r=lora.r,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=target_modules(_transformer(model), lora.target_modules),
        use_rslora=lora.variant == "rslora",
        task_type="FEATURE_EXTRACTION" if encoder else "CAUSAL_LM",
    )
    try:
        with quiet():
            adapted = get_peft_model(_transformer(model), config)
    except ValueError as error:
        raise RecipeError(
            f"lora.target_modules = {lora.target_modules!r} does not fit the base ({error})",
            where="recipe",
            fix="Give 'all-linear', or names such as q_proj.",
        ) from error
    if not encoder and hasattr(adapted.get_output_embeddings(), "lora_A"):
        raise RecipeError(
            f"lora.target_modules = {lora.target_modules!r} names the output layer, which would not be trained: the "
            "loss reads its weights directly",
            where="recipe",
            fix="Leave the output layer out.",
        )
    return adapted


def load_weights(model: Any, folder: Path) -> None:
    """Set A and B of a new adapter to those of a saved one, to train it further.

    Args:
        model: Returned by `new_adapter`.
        folder: A plain PEFT folder with the same rank and modules.

    Raises:
        MissingKey, UnexpectedKey: naming the keys; the model is as it was.
    """
    tensors = read_weights(folder)
    parameters = _parameters(model, "default")
    _check_keys(tensors, parameters, folder)
    for key, parameter in parameters.items():
        parameter.data.copy_(tensors[key])


def save_adapter(model: Any, folder: Path, recipe: AnyRecipe, revision: str | None = None) -> None:
    """Write the current adapter as a plain PEFT folder, without a look-up on the hub.

    Args:
        model: Returned by `new_adapter`.
        recipe: Its `base` becomes `base_model_name_or_path`; of a path, only the last part.
        revision: Commit of the base on the hub, for `AutoPeftModel`; None for a base that is not from the hub.
    """
    tensors = {key: value.detach().float().cpu().contiguous() for key, value in _parameters(model, "default").items()}
    write_folder(folder, _plain_config(model.peft_config["default"], recipe, revision), tensors)


def attach(model: Any, adapter: StoredAdapter | Path, adapter_name: str = "default") -> Any:
    """Attach a saved adapter to a base, beside any other adapters, and make it the active one.

    Only configuration, keys and shapes are checked here; see `load_check` for the rest.

    Args:
        model: A base from `load_model`, an encoder from `load_encoder` (changed in place, and still usable as an
            encoder), or a model that an earlier `attach` returned.
        adapter: A stored adapter or a plain PEFT folder.

    Returns:
        The `peft.PeftModel` in eval mode. A and B are fp32; their inputs are cast to fp32 and the result back.

    Raises:
        NameTaken: if the model has an adapter of that name; PEFT would overwrite it.
        MissingKey, UnexpectedKey: naming the keys; a wrong shape is an unexpected key. The model is as it was.
    """
    import torch
    from peft import set_peft_model_state_dict

    folder = adapter if isinstance(adapter, Path) else adapter.path
    model = _transformer(model)
    if adapter_name in getattr(model, "peft_config", {}):
        raise NameTaken(
            f"the model already has an adapter called '{adapter_name}'", fix="Detach it, or give another name."
        )
    config = read_config(folder)
    tensors = read_weights(folder)
    first = not hasattr(model, "peft_config")
    adapted = _with_empty_adapter(model, config, adapter_name, folder)
    try:
        _check_keys(tensors, _parameters(adapted, adapter_name), folder)
    except SearchloraError:
        adapted.unload() if first else adapted.delete_adapter(adapter_name)
        raise
    set_peft_model_state_dict(adapted, tensors, adapter_name, low_cpu_mem_usage=True)
    for key, parameter in _parameters(adapted, adapter_name).items():
        parameter.data = tensors[key].to(
            parameter.device, torch.float32
        )  # PEFT has rounded them to the base's precision
    adapted.set_adapter(adapter_name, inference_mode=True)
    return adapted.eval()


def _transformer(model: Any) -> Any:
    """The transformer inside a `SentenceTransformer`; any other model itself.

    PEFT changes the transformer in place, so the encoder around it still works. (The encoder's own `add_adapter` is
    that of transformers, which requires a PEFT that is not released yet.)
    """
    inner = getattr(model, "transformers_model", None)
    return model if inner is None else inner


def _with_empty_adapter(model: Any, config: dict[str, Any], adapter_name: str, folder: Path) -> Any:
    """The model with the modules of the adapter, their tensors on the meta device."""
    from peft import LoraConfig, PeftModel, get_peft_model

    # Without the base's name, since PEFT warns if it differs from the path that the base was loaded from.
    overrides = {"init_lora_weights": True, "inference_mode": True, "base_model_name_or_path": None}
    settings = LoraConfig(
        **lora_settings(config, str(folder)).model_dump(), task_type=config.get("task_type"), **overrides
    )
    try:
        if isinstance(model, PeftModel):
            model.add_adapter(adapter_name, settings, low_cpu_mem_usage=True, autocast_adapter_dtype=False)
            return model
        with quiet():
            return get_peft_model(model, settings, adapter_name, autocast_adapter_dtype=False, low_cpu_mem_usage=True)
    except ValueError as error:
        raise UnexpectedKey(
            f"the base has none of the modules {config.get('target_modules')} ({error})",
            where=str(folder),
            fix="Load the adapter on the base it was trained on.",
        ) from error


def _check_keys(tensors: dict[str, Any], expected: dict[str, Any], folder: Path) -> None:
    """Compare the keys and shapes of a file with those of the model."""
    where = str(folder / WEIGHTS)
    if missing := sorted(expected.keys() - tensors.keys()):
        raise MissingKey(
            f"{len(missing)} of {len(expected)} weights are missing: {some(missing)}",
            where=where,
            fix="Store the adapter again; it must not be used in part.",
        )
    if unexpected := sorted(tensors.keys() - expected.keys()):
        raise UnexpectedKey(
            f"{len(unexpected)} weights match no module of the base: {some(unexpected)}",
            where=where,
            fix="Load the adapter on the base, and with the configuration, it was trained with.",
        )
    for key, tensor in tensors.items():
        if tensor.shape != expected[key].shape:
            raise UnexpectedKey(
                f"{key} has shape {tuple(tensor.shape)}, the base needs {tuple(expected[key].shape)}",
                where=where,
                fix="Load the adapter on the base it was trained on.",
            )


def _parameters(model: Any, adapter_name: str) -> dict[str, Any]:
    """A and B of the model, by their names in a file."""
    from peft import get_peft_model_state_dict

    parameters = {name: value for name, value in model.named_parameters() if "lora_" in name}
    state: dict[str, Any] = get_peft_model_state_dict(model, parameters, adapter_name, save_embedding_layers=False)
    return state


def _plain_config(settings: Any, recipe: AnyRecipe, revision: str | None) -> dict[str, Any]:
    """The configuration for `adapter_config.json`, sets in a fixed order."""
    values = {
        key: sorted(value) if isinstance(value, set | frozenset) else value for key, value in settings.to_dict().items()
    }
    return {
        **values,
        "base_model_name_or_path": public_name(recipe.base),
        "revision": revision,
        "init_lora_weights": True,
        "inference_mode": True,
        "auto_mapping": None,
    }
