"""The tables in the READMEs match the result files."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def test_tables_match_the_results():
    checked = subprocess.run(
        [sys.executable, "-m", "benchmarks.tables", "--check"],
        cwd=Path(__file__).resolve().parents[1],
        capture_output=True,
        text=True,
        check=False,
    )
    assert checked.returncode == 0, checked.stderr
