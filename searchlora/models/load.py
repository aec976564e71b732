"""Loading a base model's weights and tokenizer; safetensors only, and no code from the folder is run."""

from __future__ import annotations

import json
from typing import Any, Literal

from searchlora.errors import BaseModelError
from searchlora.models.libraries import off_the_hub, quiet
from searchlora.models.resolve import BaseModel

Quantization = Literal["nf4", "none"]
Precision = Literal["bf16", "fp32"]

#: What stands in the class names of models that write text.
_GENERATING = ("ForCausalLM", "LMHeadModel", "ForConditionalGeneration")


def load_tokenizer(base: BaseModel) -> Any:
    """The tokenizer of a base, with a padding token (the end-of-text token where it has none of its own)."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(base.path, local_files_only=True, trust_remote_code=False)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def load_model(
    base: BaseModel, *, quantization: Quantization = "none", precision: Precision = "bf16", device: str | None = None
) -> Any:
    """A fresh copy of a base model, frozen, in training mode off.

    On a CPU, a 4-bit model repacks its weights in its first forward pass in eval mode; after that its gradients are
    wrong and so is a merge. Whoever trains or merges therefore asks for a copy of their own here.

    Args:
        quantization: "nf4" is 4-bit NormalFloat with double quantisation (arXiv:2305.14314).
        precision: Of the computation, and of the weights where they are not quantised.
        device: "cpu", "cuda", ...; the GPU where there is one.

    Raises:
        BaseModelError: when the folder does not hold a causal language model that transformers can load. (An encoder
            it would load, and put a random head on it.)
    """
    import torch
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM

    _check_generates(base)
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
    _contiguous_into_the_head(model)
    return model.eval()


def _contiguous_into_the_head(model: Any) -> None:
    """Let the output layer see its input in one piece.

    `logits_to_keep` hands it the last columns of the hidden states, which do not lie together in memory. For a frozen
    weight PyTorch then copies that weight once per row of the batch and multiplies row by row; copying the few hidden
    states instead makes a training step on a CPU take about half the time (`benchmarks/training_speed`).
    """
    model.get_output_embeddings().register_forward_pre_hook(lambda _, inputs: (inputs[0].contiguous(),))


def _check_generates(base: BaseModel) -> None:
    try:
        config = json.loads((base.path / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BaseModelError(f"the configuration cannot be read ({error})", where=str(base.path)) from None
    kinds = config.get("architectures") or []
    if kinds and not any(mark in kind for kind in kinds for mark in _GENERATING):
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
