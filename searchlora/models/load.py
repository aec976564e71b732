"""Load base models, tokenizers and text encoders: safetensors only, and no code from the folder is run."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any, Literal

from searchlora.errors import BaseModelError, some
from searchlora.models.devices import default_device
from searchlora.models.libraries import off_the_hub, quiet
from searchlora.models.processor import multiplies_bf16
from searchlora.models.resolve import (
    BaseModel,
    architectures_of,
    check_exists,
    check_no_adapter,
    read_json_object,
    read_modules,
)
from searchlora.models.text_model import computing_dtype
from searchlora.threads import choose_threads, watch_other_processes

Quantization = Literal["nf4", "none"]
Precision = Literal["bf16", "fp32"]

#: Decoders without buffers in the precision of their weights, whose linear layers read their weights in products only.
_PLAIN = frozenset({"LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM"})

#: Rows of a weight that a product in fp32 converts at once.
_CONVERTED = 1024

#: Parts of the class names of generative models.
_GENERATIVE = ("ForCausalLM", "LMHeadModel", "ForConditionalGeneration")

#: Modules that an encoder may consist of. Others load code, pickles or further modules that a folder names.
_ENCODER_MODULES = frozenset(
    {"Transformer", "Pooling", "Normalize", "Dense", "LayerNorm", "WeightedLayerPooling", "Dropout", "StaticEmbedding"}
)
_PICKLES = frozenset({".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt"})


def load_tokenizer(base: BaseModel) -> Any:
    """The tokenizer of a base; its end-of-text token pads if it has no padding token."""
    from transformers import AutoTokenizer

    check_exists(base.path)
    try:
        tokenizer = AutoTokenizer.from_pretrained(base.path, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # tokenizers raises `Exception` itself
        raise BaseModelError(f"the tokenizer cannot be loaded ({error})", where=str(base.path)) from error
    if tokenizer.pad_token is None:
        if tokenizer.eos_token is None:
            raise BaseModelError("the tokenizer has no end-of-text token", where=str(base.path))
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def computed_in(precision: Precision, device: str | None = None) -> Precision:
    """The precision in which a model is computed on a device (None: the GPU if there is one): bf16 is fp32 on a
    processor that cannot multiply bf16.

    There PyTorch converts bf16 numbers before it multiplies them: products take 11 times as long as in fp32 with
    AVX-512 but without its bf16 instructions, and 50 times with AVX2 only. fp32 needs up to twice the memory and rounds
    less.
    """
    import torch

    on_cpu = device == "cpu" or (device is None and not torch.cuda.is_available())
    return "fp32" if precision == "bf16" and on_cpu and not multiplies_bf16() else precision


def load_model(
    base: BaseModel,
    *,
    quantization: Quantization = "none",
    precision: Precision = "bf16",
    device: str | None = None,
    to_write: bool = False,
    to_serve: bool = False,
) -> Any:
    """A fresh copy of a base model, frozen, in eval mode.

    bitsandbytes repacks 4-bit weights in the first eval-mode forward on CPU. Gradients computed after that are wrong,
    and so is a merge; load a separate copy to train or merge.
    """
    choose_threads()
    import torch
    from transformers import AutoModelForCausalLM

    watch_other_processes()
    _check_generative(base)
    held = computed_in(precision, device)
    converts = to_serve and held != precision and quantization == "none" and _is_plain_bf16(base)
    if to_write or converts:
        held = precision
    dtype = {"bf16": torch.bfloat16, "fp32": torch.float32}[held]
    settings: dict[str, Any] = {"dtype": dtype}
    settings["device_map"] = {"": device or default_device()}
    try:
        with quiet():
            if quantization == "nf4":
                settings["quantization_config"] = _nf4(dtype)
            model, report = AutoModelForCausalLM.from_pretrained(
                base.path,
                local_files_only=True,
                trust_remote_code=False,
                use_safetensors=True,
                output_loading_info=True,
                **settings,
            )
    except Exception as error:  # a folder with odd files makes transformers raise any type
        raise BaseModelError(f"cannot be loaded ({error})", where=str(base.path)) from error
    _check_complete(report["missing_keys"], base.path)
    model.requires_grad_(False)
    _contiguous_head_input(model)
    if converts:
        _compute_in_fp32(model)
    return model.eval()


def _is_plain_bf16(base: BaseModel) -> bool:
    """Whether a base is stored in bf16, and reads the weights of its linear layers in products only."""
    config = read_json_object(base.path / "config.json")
    return bool(_PLAIN.intersection(architectures_of(config))) and "bfloat16" in (
        config.get("dtype"),
        config.get("torch_dtype"),
    )


def _compute_in_fp32(model: Any) -> None:
    """Compute a model in fp32 whose linear layers and embeddings stay in bf16."""
    import torch

    def product(weight: Any, bias: Any, x: Any) -> Any:
        parts = [torch.nn.functional.linear(x, rows.float()) for rows in torch.split(weight, _CONVERTED)]
        return torch.cat(parts, -1) if bias is None else torch.cat(parts, -1) + bias

    def embedding(weight: Any, ids: Any) -> Any:
        return torch.nn.functional.embedding(ids, weight).float()

    for parameter in model.parameters():
        if parameter.ndim == 1:
            parameter.data = parameter.data.float()
    for module in model.modules():
        if type(module) is torch.nn.Linear:
            module.forward = partial(product, module.weight, module.bias)  # type: ignore[method-assign]
        elif type(module) is torch.nn.Embedding:
            module.forward = partial(embedding, module.weight)  # type: ignore[method-assign]


def hold_in_fp32(model: Any) -> None:
    """Hold a model in fp32 that `load_model` holds in bf16 to serve it, for an engine that does not pack it."""
    if computing_dtype(model) == model.dtype:
        return
    for module in model.modules():
        module.__dict__.pop("forward", None)
    model.float()


def number_of_parameters(model: Any, *, trained_too: bool = True) -> int:
    """Number of the parameters of a model; packed 4-bit weights count as the weights that they hold.

    With `trained_too=False`, parameters that require gradients do not count, such as those of an adapter.
    """
    return sum(_numel(value) for value in model.parameters() if trained_too or not value.requires_grad)


def _numel(parameter: Any) -> int:
    state = getattr(parameter, "quant_state", None)
    return int(parameter.numel() if state is None else math.prod(state.shape))


def load_encoder(base: BaseModel, *, quantization: Quantization = "none", device: str | None = None) -> Any:
    """A fresh `SentenceTransformer` in float32, frozen, in eval mode.

    A folder without `modules.json` is a plain transformer; the mean of its token vectors is the vector of a text.
    `quantization` is of the transformer's linear layers, to train on.
    """
    choose_threads()
    import torch

    watch_other_processes()
    check_exists(base.path)
    _check_modules(base.path)
    with quiet(), off_the_hub():
        from sentence_transformers import SentenceTransformer

        try:
            model = SentenceTransformer(
                str(base.path),
                device=device or default_device(),
                local_files_only=True,
                trust_remote_code=False,
                model_kwargs={
                    "use_safetensors": True,
                    "dtype": torch.float32,
                    **({"quantization_config": _nf4(torch.float32)} if quantization == "nf4" else {}),
                },
            )
            missing = _missing_weights(model, base.path, quantization)
        except Exception as error:  # a folder with odd files makes the libraries raise any type
            raise BaseModelError(f"cannot be loaded as an encoder ({error})", where=str(base.path)) from error
    _check_complete(missing, base.path)
    if model.tokenizer is not None:
        model.tokenizer.split_special_tokens = True  # a text that holds "[SEP]" gives the tokens of these characters
    model.requires_grad_(False)
    return model.eval()


def _check_complete(missing: Iterable[str], folder: Path) -> None:
    """Refuse weights that lack tensors: transformers fills them with random numbers."""
    if names := sorted(missing):
        raise BaseModelError(f"the weights lack {len(names)} tensors: {some(names)}", where=str(folder))


def _missing_weights(encoder: Any, folder: Path, quantization: Quantization) -> list[str]:
    """The tensors of an encoder's transformer that the folder lacks, without those of a pooler, which nothing reads.

    sentence-transformers does not return what transformers reports, so the headers of the files are read once more
    into a model without memory.
    """
    transformer = getattr(encoder, "transformers_model", None)
    if transformer is None:  # static embeddings, whose loading is strict
        return []
    config = copy.deepcopy(transformer.config)
    if quantization == "nf4":
        del config.quantization_config
    paths = [module.path for module in read_modules(folder) if module.type.endswith(".Transformer")]
    _, report = type(transformer).from_pretrained(
        folder / (paths[0] if paths else ""),
        config=config,
        device_map="meta",
        local_files_only=True,
        trust_remote_code=False,
        use_safetensors=True,
        output_loading_info=True,
    )
    return [name for name in report["missing_keys"] if not name.startswith("pooler.")]


def _contiguous_head_input(model: Any) -> None:
    """Make the input of the output layer contiguous.

    `logits_to_keep` passes it the last columns of the hidden states, which are not contiguous. PyTorch then copies a
    frozen weight once per row of the batch and multiplies row by row; copying the few hidden states instead halves the
    time of a training step on CPU (`benchmarks/training`). One row and column is contiguous with any strides, and
    PyTorch looks at the strides: as a vector it has those of its shape.
    """

    def contiguous(_: object, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        hidden = inputs[0].contiguous()
        return (hidden.flatten(0, -2).view(hidden.shape),)

    model.get_output_embeddings().register_forward_pre_hook(contiguous)


def _check_generative(base: BaseModel) -> None:
    check_no_adapter(base.path)
    names = architectures_of(read_json_object(base.path / "config.json"))
    if names and not any(part in name for name in names for part in _GENERATIVE):
        raise BaseModelError(
            f"'{base.name}' is a {names[0]}, which does not generate text",
            fix="Name a causal language model as the base.",
        )


def _nf4(dtype: Any) -> Any:
    from transformers import BitsAndBytesConfig

    with off_the_hub():
        import bitsandbytes  # noqa: F401
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
    )


def _check_modules(folder: Path) -> None:
    """Refuse modules that load code, pickles or further modules, whichever release of sentence-transformers runs."""
    file = folder / "modules.json"
    check_no_adapter(folder)
    for module in read_modules(folder):
        package, _, name = module.type.rpartition(".")
        if package.partition(".")[0] != "sentence_transformers" or name not in _ENCODER_MODULES:
            raise BaseModelError(
                f"the module '{module.type}' is not one of sentence-transformers' own that are supported, and code of a"
                " model is never run",
                where=str(file),
                fix=f"Supported: {', '.join(sorted(_ENCODER_MODULES))}.",
            )
        subfolder = folder / module.path
        check_no_adapter(subfolder)
        if name == "Transformer":  # loads safetensors only
            continue
        if pickles := [each.name for each in subfolder.glob("*") if each.suffix.lower() in _PICKLES]:
            raise BaseModelError(
                f"the weights are a pickle, which is never read ({pickles[0]})",
                where=str(subfolder),
                fix="Save them as safetensors and delete the pickle.",
            )
