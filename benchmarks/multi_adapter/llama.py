"""llama.cpp's server of a base's GGUF file, and PEFT folders as the GGUF files that it takes adapters from."""

from __future__ import annotations

import importlib.util
import json
import os
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import gguf
import numpy as np

from benchmarks.child_server import child_server
from searchlora.adapters.peft_folder import read_config, read_weights
from searchlora.models.resolve import CATALOGUE, BaseModel, PackagedWeights

_PREFIX = "base_model.model."


def llama_server(
    binary: Path, model: Path, adapters: Sequence[Path], *, rows: int, context: int, log: Path
) -> AbstractContextManager[str]:
    """The URL of a server whose requests name the adapter that they wear; nothing of a prompt is kept.

    Args:
        model: A GGUF file; `adapters` too.
        rows: That are computed at once.
        context: Tokens of each row, read and written.
    """
    options = {
        "--model": model,
        "--host": "127.0.0.1",
        "--parallel": rows,
        "--ctx-size": rows * context,
        # Its own default counts cores without hyperthreading.
        "--threads": len(os.sched_getaffinity(0)),
        "--cache-ram": 0,
    }
    command = [str(binary), "--no-kv-unified"]
    command += [str(each) for option in options.items() for each in option]
    command += ["--lora", ",".join(map(str, adapters))]  # given several times, the last one counts
    return child_server("llama-server", lambda port: [*command, "--port", str(port)], log)


def gguf_of(base: BaseModel) -> Path:
    """The file that the base's weights were read from."""
    if base.name.endswith(".gguf"):
        return Path(base.name)
    entry = CATALOGUE[base.name]
    assert isinstance(entry, PackagedWeights), f"{base.name} does not come from a GGUF file"
    spec = importlib.util.find_spec(entry.package)
    assert spec is not None and spec.origin is not None  # the base was resolved
    return Path(spec.origin).parent / entry.file


def gguf_adapter(base: BaseModel, folder: Path) -> Path:
    """A plain LoRA of a Llama, written beside its PEFT folder; A and B in fp16, two bytes as the other systems have."""
    config = json.loads((base.path / "config.json").read_text(encoding="utf-8"))
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config["num_hidden_layers"])
    target = folder.with_suffix(".gguf")
    writer = gguf.GGUFWriter(target, "llama")
    writer.add_type(gguf.GGUFType.ADAPTER)
    writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
    writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, float(read_config(folder)["lora_alpha"]))
    for key, value in read_weights(folder).items():
        module, side, _ = key.removeprefix(_PREFIX).rsplit(".", 2)
        heads = {"q_proj": "num_attention_heads", "k_proj": "num_key_value_heads"}.get(module.rsplit(".", 1)[-1])
        array = value.numpy()
        if heads and side == "lora_B":
            array = _permuted(array, config[heads])
        writer.add_tensor(f"{names.get_name(module)}.weight.{side.lower()}", array.astype(np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return target


def _permuted(weight: Any, heads: int) -> Any:
    """Rows of a head as llama.cpp rotates them: pairs lie side by side, not half a head apart."""
    halves = weight.reshape(heads, 2, weight.shape[0] // heads // 2, *weight.shape[1:])
    return np.ascontiguousarray(halves.swapaxes(1, 2).reshape(weight.shape))
