"""The number of a base's parameters, and the memory that is free."""

from __future__ import annotations

from types import SimpleNamespace

import psutil
import pytest

from searchlora.models.load import load_model
from searchlora.models.memory import available_memory, base_parameters
from searchlora.models.resolve import BaseModel
from tests.test_threads import control_groups


@pytest.mark.slow
def test_the_parameters_of_a_base_are_counted_in_the_headers_of_its_files(tiny_base: BaseModel) -> None:
    model = load_model(tiny_base, to_write=True)
    assert base_parameters(tiny_base.path) == sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize(
    ("lines", "files", "expected"),
    [
        (["0::/"], {"memory.max": "1000000\n", "memory.current": "400000\n"}, 600_000),
        (["0::/"], {"memory.max": "1000", "memory.current": "4000"}, 0),
        (["0::/"], {"memory.max": "max\n", "memory.current": "400000\n"}, 10**9),
        (["0::/"], {}, 10**9),
        (  # pages of a file that was read, such as the weights of a base, are given back
            ["0::/"],
            {
                "memory.max": "1000000",
                "memory.current": "900000",
                "memory.stat": "anon 90000\nfile 810000\ninactive_file 700000\nactive_file 100000\n",
            },
            900_000,
        ),
        (
            ["0::/pod/box"],
            {
                "pod/memory.max": "500000",
                "pod/memory.current": "200000",
                "pod/box/memory.max": "900000",
                "pod/box/memory.current": "100000",
            },
            300_000,
        ),
        (
            ["4:memory:/docker/1", "2:cpu,cpuacct:/docker/1"],
            {
                "memory/memory.limit_in_bytes": "1000000",
                "memory/memory.usage_in_bytes": "900000",
                "memory/memory.stat": "inactive_file 5\ntotal_inactive_file 300000\ntotal_active_file 200000\n",
            },
            600_000,
        ),
    ],
)
def test_the_limits_of_control_groups_bound_the_available_memory(tmp_path, monkeypatch, lines, files, expected):
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=10**9))
    control_groups(tmp_path, lines, {f"sys/fs/cgroup/{name}": text for name, text in files.items()})
    assert available_memory(tmp_path) == expected
