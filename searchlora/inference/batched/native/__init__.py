"""Compiled kernels, built on first use: batched LoRA, attention, RMSNorm, rotary embedding, SwiGLU, small-batch GEMM.

The GEMM with frozen weights needs a processor with AMX or AVX512-BF16. PyTorch computes LoRA and attention with one
batched product each, which on a CPU spends most of its time on repacking such small matrices
(`benchmarks/multi_adapter` has the ratio). Without a C compiler, on other systems than Linux, or with
SEARCHLORA_NATIVE=0, PyTorch computes everything, with the same results up to rounding.
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
_SOURCES = [_FOLDER / f"{name}.c" for name in ("lora", "linear_amx", "linear_avx512", "attention", "fused")]
_HEADERS = [_FOLDER / f"{name}.h" for name in ("numeric", "packing", "lora")]
_FLAGS = ("-O3", "-march=native", "-fno-trapping-math", "-fno-math-errno", "-fopenmp", "-fPIC", "-c")
_DTYPE_FLAGS = {torch.bfloat16: ("-DBF16",), torch.float32: ()}


def kernels(like: torch.Tensor) -> Kernels | None:
    """The kernels for tensors of this dtype and device; None if PyTorch must compute."""
    if like.device.type != "cpu" or like.dtype not in _DTYPE_FLAGS or os.environ.get("SEARCHLORA_NATIVE") == "0":
        return None
    return _load(like.dtype)


@functools.cache
def _load(dtype: torch.dtype) -> Kernels | None:
    compiler = shlex.split(os.environ.get("CC") or "cc")
    if platform.system() != "Linux" or shutil.which(compiler[0]) is None:
        return None
    try:
        library = _build(compiler, _DTYPE_FLAGS[dtype])
        try:
            return Kernels(ctypes.CDLL(str(library)), dtype)
        except OSError:  # a damaged file, perhaps; build it once more
            library.unlink()
            return Kernels(ctypes.CDLL(str(_build(compiler, _DTYPE_FLAGS[dtype]))), dtype)
    except (OSError, RuntimeError, subprocess.SubprocessError):  # no OpenMP, a full disk, a user without a home
        return None


def _build(compiler: Sequence[str], flags: tuple[str, ...]) -> Path:
    """The library, cached by the hash of its sources, compiler, flags and processor."""
    sources = [file.read_text(encoding="utf-8") for file in (*_HEADERS, *_SOURCES)]
    inputs = [*sources, *compiler, *_FLAGS, *flags, _processor()]
    name = hashlib.sha256("\0".join(inputs).encode()).hexdigest()[:24]
    library = cache_dir() / "kernels" / f"{name}.so"
    if not library.is_file():
        library.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=library.parent) as folder:
            linked = Path(folder, "kernels.so")
            objects = [str(Path(folder, f"{source.stem}.o")) for source in _SOURCES]
            for source, target in zip(_SOURCES, objects, strict=True):
                _run(*compiler, *_FLAGS, *flags, str(source), "-o", target)
            # Linked without OpenMP, the library uses PyTorch's: a second OpenMP would keep threads of its own.
            _run(*compiler, "-shared", *objects, "-o", str(linked))
            with linked.open("rb") as written:
                os.fsync(written.fileno())
            linked.replace(library)
    return library


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True, timeout=120)


def _processor() -> str:
    """What `-march=native` depends on."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    fields = ("vendor_id", "cpu family", "model", "flags", "Features", "CPU part")
    return "\n".join(sorted({line for line in lines if line.partition(":")[0].strip() in fields}))
