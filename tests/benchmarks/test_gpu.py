"""The benchmark of a GPU runs all its steps on a CPU, with a tiny base."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

STEPS = (
    "probe",
    "train judgment, without checkpointing",
    "train judgment, with checkpointing",
    "doctor --base",
    "judge, batch_invariant: false",
    "judge, batch_invariant: true",
)


@pytest.mark.journey
def test_every_step_runs_with_a_tiny_base_on_a_cpu(tmp_path):
    command = [sys.executable, "-m", "benchmarks.gpu", "--shape", "tiny", "--try", "--steps", "2", "--pairs", "8"]
    ended = subprocess.run(
        [*command, "--rows", "4", "--work", tmp_path], capture_output=True, text=True, timeout=900, check=False
    )
    assert ended.returncode == 0, ended.stderr
    assert [f"tiny, {step}: done" in ended.stderr for step in STEPS] == [True] * len(STEPS), ended.stdout
    probed = json.loads((tmp_path / "probe tiny.json").read_text(encoding="utf-8"))
    assert probed["batch_invariant: true"]["rows with equal bits alone and together"] == 4
    assert probed["check"]["difference"] <= 8 * probed["check"]["noise"]
    assert min(probed[f"batch_invariant: {asked}"]["kernels of a step"] for asked in ("false", "true")) > 0
