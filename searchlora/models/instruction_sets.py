"""The instructions of the processor that are used: all, or those of an older one by SEARCHLORA_NATIVE.

PyTorch and oneDNN have switches of their own, ATEN_CPU_CAPABILITY and ONEDNN_MAX_CPU_ISA. Together the three let one
machine compute as another one does.
"""

from __future__ import annotations

import functools
import os
from pathlib import Path

from searchlora.errors import UsageError

#: Environment variable with one of `INSTRUCTION_SETS`, "1" for "native", or "0" for no compiled kernels.
SWITCH = "SEARCHLORA_NATIVE"

#: Name -> options of the compiler, and what /proc/cpuinfo must list.
INSTRUCTION_SETS: dict[str, tuple[tuple[str, ...], frozenset[str]]] = {
    "native": (("-march=native",), frozenset()),
    "avx512_bf16": (("-march=cooperlake",), frozenset({"avx512_bf16"})),
    "avx512": (("-march=x86-64-v4",), frozenset({"avx512f", "avx512bw", "avx512vl", "avx512dq"})),
    "avx2": (("-march=x86-64-v3",), frozenset({"avx2", "fma"})),
    "baseline": ((), frozenset()),
}

#: Of `INSTRUCTION_SETS`, those that multiply bf16 if the processor does.
_WITH_BF16 = frozenset({"native", "avx512_bf16"})


def chosen_instruction_set() -> str | None:
    """The name of the instruction set that the kernels are compiled for; None if they are switched off.

    Raises:
        UsageError: for a name that is unknown, or of instructions that this processor lacks.

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


def uses_bf16_instructions() -> bool:
    """Whether the switch leaves those instructions in use that multiply bf16, if the processor has them."""
    name = chosen_instruction_set()
    return name is None or name in _WITH_BF16


@functools.cache
def cpu_flags() -> frozenset[str]:
    """Names of the processor's features, as Linux lists them; empty on other systems."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return frozenset()
    listed = (
        line.partition(":")[2].split() for line in lines if line.partition(":")[0].strip() in ("flags", "Features")
    )
    return frozenset(flag for flags in listed for flag in flags)
