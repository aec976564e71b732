"""Load base models, tokenizers and text encoders: safetensors only, and no code from the folder is run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

from searchlora.errors import BaseModelError
from searchlora.models.libraries import off_the_hub, quiet
from searchlora.models.resolve import BaseModel

Quantization = Literal["nf4", "none"]
Precision = Literal["bf16", "fp32"]

#: Parts of the class names of generative models.
_GENERATIVE = ("ForCausalLM", "LMHeadModel", "ForConditionalGeneration")

#: Package of the module classes that an encoder may name.
_ENCODER_CLASSES = "sentence_transformers."


def load_tokenizer(base: BaseModel) -> Any:
    """The tokenizer of a base; its end-of-text token pads if it has no padding token."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(base.path, local_files_only=True, trust_remote_code=False)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def load_model(
    base: BaseModel, *, quantization: Quantization = "none", precision: Precision = "bf16", device: str | None = None
) -> Any:
    """A fresh copy of a base model, frozen, in eval mode.

    bitsandbytes repacks 4-bit weights in the first eval-mode forward on CPU. Gradients computed after that are wrong,
    and so is a merge; load a separate copy to train or merge.

    Args:
        quantization: "nf4" is 4-bit NormalFloat with double quantisation (arXiv:2305.14314).
        precision: Of the computation, and of weights that are not quantised.
        device: "cpu", "cuda", ...; by default the GPU if there is one.

    Raises:
        BaseModelError: for a folder without a causal language model that transformers can load. An encoder is refused:
            transformers would load it with a random output layer.
    """
    import torch
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM

    _check_generative(base)
    dtype = {"bf16": torch.bfloat16, "fp32": torch.float32}[precision]
    settings: dict[str, Any] = {"dtype": dtype}
    settings["device_map"] = {"": device or ("cuda" if torch.cuda.is_available() else "cpu")}
    try:
        with quiet():
            if quantization == "nf4":
                settings["quantization_config"] = _nf4(dtype)
            model = AutoModelForCausalLM.from_pretrained(
                base.path, local_files_only=True, trust_remote_code=False, use_safetensors=True, **settings
            )
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise BaseModelError(f"cannot be loaded ({error})", where=str(base.path)) from error
    model.requires_grad_(False)
    _contiguous_head_input(model)
    return model.eval()


def load_encoder(base: BaseModel, *, device: str | None = None) -> Any:
    """A fresh `SentenceTransformer` in float32, frozen, in eval mode.

    A folder without `modules.json` is a plain transformer; the mean of its token vectors is the vector of a text.

    Args:
        device: "cpu", "cuda", ...; by default the GPU if there is one.

    Raises:
        BaseModelError: for a folder that names a class outside sentence-transformers, has weights that are not
            safetensors, or cannot be loaded.
    """
    import torch
    from safetensors import SafetensorError

    _check_modules(base.path)
    with quiet(), off_the_hub():
        from sentence_transformers import SentenceTransformer

        try:
            model = SentenceTransformer(
                str(base.path),
                device=device or ("cuda" if torch.cuda.is_available() else "cpu"),
                local_files_only=True,
                trust_remote_code=False,
                model_kwargs={"use_safetensors": True, "dtype": torch.float32},
            )
        except (OSError, ValueError, KeyError, ImportError, AttributeError, RuntimeError, SafetensorError) as error:
            raise BaseModelError(f"cannot be loaded as an encoder ({error})", where=str(base.path)) from error
    model.requires_grad_(False)
    return model.eval()


def _contiguous_head_input(model: Any) -> None:
    """Make the input of the output layer contiguous.

    `logits_to_keep` passes it the last columns of the hidden states, which are not contiguous. PyTorch then copies a
    frozen weight once per row of the batch and multiplies row by row; copying the few hidden states instead halves the
    time of a training step on CPU (`benchmarks/training_speed`).
    """
    model.get_output_embeddings().register_forward_pre_hook(lambda _, inputs: (inputs[0].contiguous(),))


def _check_generative(base: BaseModel) -> None:
    try:
        config = json.loads((base.path / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BaseModelError(f"the configuration cannot be read ({error})", where=str(base.path)) from None
    kinds = config.get("architectures") or []
    if kinds and not any(mark in kind for kind in kinds for mark in _GENERATIVE):
        raise BaseModelError(
            f"'{base.name}' is a {kinds[0]}, which writes no text", fix="Name a causal language model as the base."
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
    """Refuse foreign classes and pickles, which older releases of sentence-transformers run and unpickle."""
    file = folder / "modules.json"
    if not file.is_file():
        return
    try:
        modules = [(str(module["type"]), str(module["path"])) for module in json.loads(file.read_text("utf-8"))]
    except (ValueError, KeyError, TypeError) as error:
        raise BaseModelError(f"is not a list of modules ({error})", where=str(file)) from None
    for kind, path in modules:
        if not kind.startswith(_ENCODER_CLASSES):
            raise BaseModelError(
                f"the module '{kind}' is not sentence-transformers' own, and code of a model is never run",
                where=str(file),
                fix="Use an encoder made of sentence-transformers' own modules.",
            )
        place = (folder / path).resolve()
        if not place.is_relative_to(folder.resolve()):
            raise BaseModelError(f"the path '{path}' leaves the folder", where=str(file))
        if (place / "pytorch_model.bin").is_file() and not list(place.glob("*.safetensors")):
            raise BaseModelError(
                "the weights are a pickle, which is never read", where=str(place), fix="Save them as safetensors."
            )
