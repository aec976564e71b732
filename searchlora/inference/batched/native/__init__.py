"""Steps of a pass, compiled from C where a compiler is found: LoRA, attention of one token, what lies between products.

On processors that multiply bfloat16 in matrix registers (AMX) or vectors of 512 bits, products of few rows with frozen
weights too. PyTorch computes LoRA and attention with a batched product for each, which on a CPU spends most of its time
on laying such small matrices out anew (`benchmarks/multi_adapter` has the ratio). Without a compiler, on another system
than Linux, or with SEARCHLORA_NATIVE=0, PyTorch computes all of it, with the same answers but for rounding.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch

from searchlora.inference.batched.native.bindings import Kernels
from searchlora.models.resolve import cache_dir

_FOLDER = Path(__file__).parent
_NAMES = ("lora", "linear_tiles", "linear_vectors", "attention", "norm", "rotary", "gate")
_SOURCES = [_FOLDER / f"{name}.c" for name in _NAMES]
_HEADERS = [_FOLDER / f"{name}.h" for name in ("numbers", "blocks", "lora")]
_COMPILE = ("-O3", "-march=native", "-fno-trapping-math", "-fno-math-errno", "-fopenmp", "-fPIC", "-c")
_KINDS = {torch.bfloat16: ("-DBF16",), torch.float32: ()}


def kernels(like: torch.Tensor) -> Kernels | None:
    """For tensors of the kind and on the device of one; None where PyTorch has to do."""
    if like.device.type != "cpu" or like.dtype not in _KINDS or os.environ.get("SEARCHLORA_NATIVE") == "0":
        return None
    return _loaded(like.dtype)


@functools.cache
def _loaded(dtype: torch.dtype) -> Kernels | None:
    compiler = shlex.split(os.environ.get("CC") or "cc")
    if platform.system() != "Linux" or shutil.which(compiler[0]) is None:
        return None
    try:
        library = _compiled(compiler, _KINDS[dtype])
        try:
            return Kernels(ctypes.CDLL(str(library)), dtype)
        except OSError:  # damaged, perhaps; what cannot be loaded when it is new never will be
            library.unlink()
            return Kernels(ctypes.CDLL(str(_compiled(compiler, _KINDS[dtype]))), dtype)
    except (OSError, RuntimeError, subprocess.SubprocessError):  # no OpenMP, a full disk, a user without a home
        return None


def _compiled(compiler: Sequence[str], kind: tuple[str, ...]) -> Path:
    """The library, kept under what it was made from and the machine it was made for."""
    texts = [file.read_text(encoding="utf-8") for file in (*_HEADERS, *_SOURCES)]
    made_from = [*texts, *compiler, *_COMPILE, *kind, _machine()]
    name = hashlib.sha256("\0".join(made_from).encode()).hexdigest()[:24]
    library = cache_dir() / "kernels" / f"{name}.so"
    if not library.is_file():
        library.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=library.parent) as folder:
            linked = Path(folder, "kernels.so")
            compiled = [str(Path(folder, f"{source.stem}.o")) for source in _SOURCES]
            for source, target in zip(_SOURCES, compiled, strict=True):
                _run(*compiler, *_COMPILE, *kind, str(source), "-o", target)
            # Linked without an OpenMP of its own, it finds PyTorch's: a second one would keep its threads beside those.
            _run(*compiler, "-shared", *compiled, "-o", str(linked))
            with linked.open("rb") as written:
                os.fsync(written.fileno())
            linked.replace(library)
    return library


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True, timeout=120)


def _machine() -> str:
    """What `-march=native` depends on."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    told = ("vendor_id", "cpu family", "model", "flags", "Features", "CPU part")
    return "\n".join(sorted({line for line in lines if line.partition(":")[0].strip() in told}))
