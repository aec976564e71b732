"""The benchmark of a GPU runs all its steps on a CPU, with a tiny base."""

from __future__ import annotations

import subprocess
import sys

import pytest

STEPS = (
    "train judgment, without checkpointing",
    "train judgment, with checkpointing",
    "doctor --base",
    "judge",
)


@pytest.mark.journey
def test_every_step_runs_with_a_tiny_base_on_a_cpu(tmp_path):
    command = [sys.executable, "-m", "benchmarks.gpu", "--shape", "tiny", "--try", "--steps", "2", "--pairs", "8"]
    ended = subprocess.run([*command, "--work", tmp_path], capture_output=True, text=True, timeout=900, check=False)
    assert ended.returncode == 0, ended.stderr
    assert [f"tiny, {step}: done" in ended.stderr for step in STEPS] == [True] * len(STEPS), ended.stdout
