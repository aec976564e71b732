"""A GGUF file turned once into plain bf16 safetensors.

A model loaded from GGUF refuses `save_pretrained` and takes 15 s to load. So its weights are put into a fresh model
whose config knows nothing of the quantisation, and that one is saved.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from searchlora.errors import BaseModelError
from searchlora.models.libraries import quiet


def convert(gguf: Path, target: Path) -> None:
    """Write `target` (config, tokenizer, one bf16 safetensors file) from a GGUF file; all of it or nothing.

    Raises:
        BaseModelError: when transformers cannot read the file.
    """
    import torch
    from filelock import FileLock
    from transformers import AutoModelForCausalLM, AutoTokenizer

    target.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{target}.lock"), quiet():
        if (target / "config.json").is_file():  # another process was faster
            return
        try:
            packed = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
            tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
        except (OSError, ValueError, KeyError, NotImplementedError) as error:
            raise BaseModelError(f"cannot be read as GGUF ({error})", where=str(gguf)) from error
        settings = packed.config.to_dict()
        settings.pop("quantization_config", None)
        model = AutoModelForCausalLM.from_config(type(packed.config)(**settings), dtype=torch.bfloat16)
        model.load_state_dict(packed.state_dict(), strict=True)
        model.tie_weights()
        temporary = Path(tempfile.mkdtemp(dir=target.parent, prefix=".converting-"))
        try:
            model.save_pretrained(temporary)
            tokenizer.save_pretrained(temporary)
            temporary.replace(target)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
