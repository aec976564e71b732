"""Compiled kernels, built on first use: batched LoRA, attention, fused layers, small-batch GEMM, sampling, training.

A row's result does not depend on the rows that are computed with it, to the last bit, on any processor: each function
fixes the order of its sums, and the compiler may not fuse a multiplication and an addition by itself.

The GEMM with frozen weights in bf16 needs a processor with AMX or AVX512-BF16; in fp32 it runs on any. PyTorch computes
LoRA and attention with one batched product each, which on a CPU spends most of its time on repacking such small
matrices (`benchmarks/multi_adapter` has the ratio). Without a C compiler, on other systems than Linux, or with
SEARCHLORA_NATIVE=0, PyTorch computes everything, with the same results up to rounding. SEARCHLORA_NATIVE=avx2 and
others of `models.processor` compile for an older processor.

The libraries are cached in a folder that only the user can enter. A cached file or folder is code that runs in this
process, so one that another user owns or could have written is refused.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import platform
import shlex
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch

from searchlora.cpu.bindings import Kernels
from searchlora.errors import UsageError
from searchlora.models.processor import INSTRUCTION_SETS, chosen_instruction_set, cpu_info
from searchlora.models.resolve import cache_dir

_FOLDER = Path(__file__).with_name("c")
_SOURCES = [
    _FOLDER / f"{name}.c"
    for name in (
        *("lora", "linear_amx", "linear_avx512", "linear_fp32", "attention", "fused", "sampling"),
        *("fused_backward", "tree_attention"),
    )
]
_HEADERS = [_FOLDER / f"{name}.h" for name in ("numeric", "packing", "lora")]
_FLAGS = ("-O3", "-ffp-contract=off", "-fno-trapping-math", "-fno-math-errno", "-fopenmp", "-fPIC", "-c")
_DTYPE_FLAGS = {torch.bfloat16: ("-DBF16",), torch.float32: ()}


def kernels(like: torch.Tensor) -> Kernels | None:
    """The kernels for tensors of this dtype and device; None if PyTorch must compute.

    Raises:
        UsageError: for a cache that another user owns or can write to, a CC without a command, or instructions that
            the processor lacks.
    """
    if like.device.type != "cpu" or like.dtype not in _DTYPE_FLAGS:
        return None
    instruction_set = chosen_instruction_set()
    return None if instruction_set is None else _load(like.dtype, instruction_set)


@functools.cache
def _load(dtype: torch.dtype, instruction_set: str = "native") -> Kernels | None:
    compiler = _compiler()
    if platform.system() != "Linux" or shutil.which(compiler[0]) is None:
        return None
    flags = (*INSTRUCTION_SETS[instruction_set][0], *_DTYPE_FLAGS[dtype])
    try:
        library = _build(compiler, flags)
        try:
            return Kernels(_open(library), dtype)
        except OSError:  # a damaged file, perhaps; build it once more
            library.unlink()
            return Kernels(_open(_build(compiler, flags)), dtype)
    except (OSError, RuntimeError, subprocess.SubprocessError):  # no OpenMP, a full disk, a user without a home
        return None


def _compiler() -> list[str]:
    """The command of the C compiler: the environment variable CC, or cc."""
    value = os.environ.get("CC") or "cc"
    try:
        command = shlex.split(value)
    except ValueError as error:  # an open quote
        raise UsageError(f"is not a command ({error}): {value!r}", where="CC", fix=_FIX_CC) from None
    if not command or not command[0]:
        raise UsageError(f"has no command: {value!r}", where="CC", fix=_FIX_CC)
    return command


_FIX_CC = "Set it to a C compiler, such as CC=gcc, or unset it."


def _build(compiler: Sequence[str], flags: tuple[str, ...]) -> Path:
    """The library, cached by the hash of its sources, compiler, flags and processor."""
    sources = [file.read_text(encoding="utf-8") for file in (*_HEADERS, *_SOURCES)]
    inputs = [*sources, *compiler, *_FLAGS, *flags, _processor()]
    name = hashlib.sha256("\0".join(inputs).encode()).hexdigest()[:24]
    folder = cache_dir() / "native"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    _check_private(folder)
    library = folder / f"{name}.so"
    if not library.exists() and not library.is_symlink():
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            linked = Path(scratch, "kernels.so")
            objects = [str(Path(scratch, f"{source.stem}.o")) for source in _SOURCES]
            for source, target in zip(_SOURCES, objects, strict=True):
                _run(*compiler, *_FLAGS, *flags, str(source), "-o", target)
            # Linked without OpenMP, the library uses PyTorch's: a second OpenMP would keep threads of its own.
            _run(*compiler, "-shared", *objects, "-o", str(linked))
            linked.chmod(0o700)
            with linked.open("rb") as written:
                os.fsync(written.fileno())
            linked.replace(library)
    return library


def _open(library: Path) -> ctypes.CDLL:
    """Load the checked file: others, who may be able to rename the folder, cannot put another one in its place."""
    _check_private(library)
    # Left open: the loader takes two libraries of one name for one, and numbers of closed descriptors are used again.
    descriptor = os.open(library, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    _check_private(library, os.fstat(descriptor))
    return ctypes.CDLL(f"/proc/self/fd/{descriptor}")


def _check_private(path: Path, status: os.stat_result | None = None) -> None:
    """Refuse a file or folder that is a link, belongs to another user, or that others can write to; `status`: of the
    opened file.
    """
    status = path.lstat() if status is None else status
    problem = (
        "is a symbolic link"
        if stat.S_ISLNK(status.st_mode)
        else "is neither a file nor a folder"
        if not stat.S_ISREG(status.st_mode) and not stat.S_ISDIR(status.st_mode)
        else "belongs to another user"
        if status.st_uid != os.geteuid()
        else "can be written by others"
        if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
        else None
    )
    if problem:
        raise UsageError(
            f"{problem}, so the compiled code in it is not run",
            where=str(path),
            fix="Remove it, or set SEARCHLORA_CACHE to a folder of your own, or SEARCHLORA_NATIVE=0.",
        )


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True, timeout=120)


def _processor() -> str:
    """What `-march=native` depends on."""
    fields = ("vendor_id", "cpu family", "model", "flags", "Features", "CPU part")
    return "\n".join(sorted(f"{name}: {value}" for name, value in cpu_info() if name in fields))
