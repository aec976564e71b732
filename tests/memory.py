"""Peak memory of a process started by a test."""

from __future__ import annotations

#: For the script of the process: defines `peak()`, its largest resident memory so far in MiB. Not ru_maxrss, which a
#: process inherits from the one that started it, here pytest with torch in it.
PEAK = """
def peak():
    lines = open("/proc/self/status").read().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("VmHWM"))) / 1024
"""
