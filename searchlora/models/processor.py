"""What the processor can do, and which of its instructions are used: all, or those of an older one.

SEARCHLORA_NATIVE chooses the instructions of the compiled kernels. PyTorch and oneDNN have switches of their own,
ATEN_CPU_CAPABILITY and ONEDNN_MAX_CPU_ISA. Together the three let one machine compute as another one does.
"""

from __future__ import annotations

import functools
import importlib.util
import os
import platform
from pathlib import Path

from searchlora.errors import UsageError

#: Environment variable with one of `INSTRUCTION_SETS`, "1" for "native", or "0" for no compiled kernels.
SWITCH = "SEARCHLORA_NATIVE"

#: Name -> options of the compiler, and the features that the processor must have.
INSTRUCTION_SETS: dict[str, tuple[tuple[str, ...], frozenset[str]]] = {
    "native": (("-march=native",), frozenset()),
    "avx512_bf16": (("-march=cooperlake",), frozenset({"avx512_bf16"})),
    "avx512": (("-march=x86-64-v4",), frozenset({"avx512f", "avx512bw", "avx512vl", "avx512dq"})),
    "avx2": (("-march=x86-64-v3",), frozenset({"avx2", "fma"})),
    "baseline": ((), frozenset()),
}

#: Of `INSTRUCTION_SETS`, those that multiply bf16 if the processor does.
_WITH_BF16 = frozenset({"native", "avx512_bf16"})


@functools.cache
def cpu_info() -> frozenset[tuple[str, str]]:
    """Names and values of the fields in /proc/cpuinfo, of all CPUs together; empty on systems other than Linux."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return frozenset()
    fields = (line.partition(":") for line in lines)
    return frozenset((name.strip(), value.strip()) for name, _, value in fields)


@functools.cache
def cpu_flags() -> frozenset[str]:
    """Names of the processor's features, as Linux lists them; empty on other systems."""
    return frozenset(flag for name, value in cpu_info() if name in ("flags", "Features") for flag in value.split())


def cpu_name() -> str:
    """The model of the processor, for people."""
    names = sorted(value for name, value in cpu_info() if name == "model name")
    return names[0] if names else platform.processor() or platform.machine()


def chosen_instruction_set() -> str | None:
    """The name of the instruction set that the kernels are compiled for; None if they are switched off.

    Examples:
        >>> import os
        >>> os.environ["SEARCHLORA_NATIVE"] = "baseline"
        >>> chosen_instruction_set()
        'baseline'
        >>> del os.environ["SEARCHLORA_NATIVE"]
        >>> chosen_instruction_set()
        'native'
    """
    value = os.environ.get(SWITCH, "")
    if value == "0":
        return None
    name = "native" if value in ("", "1") else value
    if name not in INSTRUCTION_SETS:
        known = ", ".join(INSTRUCTION_SETS)
        raise UsageError(f"has no instruction set {value!r}", where=SWITCH, fix=f"Use one of {known}, or 0 for none.")
    if missing := INSTRUCTION_SETS[name][1] - cpu_flags():
        what = f"needs {', '.join(sorted(missing))}, which this processor lacks"
        raise UsageError(f"{value!r} {what}", where=SWITCH, fix=f"Unset {SWITCH}, or use baseline.")
    return name


def uses_gpu() -> bool:
    """Whether models are computed on a GPU, unless their caller names a device."""
    if importlib.util.find_spec("torch") is None:
        return False
    import torch

    return torch.cuda.is_available()


def multiplies_bf16() -> bool:
    """Whether the matrix products of PyTorch use instructions of this processor for bf16."""
    import torch

    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]  # PyTorch has no types here
        return False  # a build without oneDNN, which has no such operator
    # oneDNN supports bf16 on any processor with AVX-512, and converts it where there are no instructions for it.
    converts = "avx512f" in cpu_flags() and cpu_flags().isdisjoint({"avx512_bf16", "amx_bf16"})
    supported = bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    name = chosen_instruction_set()
    return supported and not converts and (name is None or name in _WITH_BF16)
