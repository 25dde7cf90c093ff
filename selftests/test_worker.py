"""The worker's own decisions: how many processors it may keep busy."""

import os
from pathlib import Path

import pytest

from autograder import worker


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, 8.0),
        ({"cpu.max": "max 100000\n"}, 8.0),
        ({"cpu.max": "50000 100000\n"}, 0.5),
        ({"cpu.max": "nonsense\n"}, 8.0),
        ({"cpu/cpu.cfs_quota_us": "150000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 1.5),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, 8.0),
    ],
    ids=["no cgroup", "v2 unlimited", "v2 half", "v2 unreadable", "v1 one and a half", "v1 unlimited"],
)
def test_a_containers_quota_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: dict[str, str], expected: float
) -> None:
    """Eight processors to be scheduled on are eight, unless a container's quota allows less."""
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: set(range(8)), raising=False)
    monkeypatch.setattr(worker, "Path", lambda _root, file: tmp_path / file)
    assert worker.processors() == expected
