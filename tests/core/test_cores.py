"""A job of a cluster or a container has fewer cores than its machine."""

import os

import pytest

from vitlora.core import cores as module
from vitlora.core.cores import cores


@pytest.fixture
def quota(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "QUOTA", tmp_path / "cpu.max")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    return module.QUOTA


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("max 100000\n", 8),
        ("200000 100000\n", 2),
        ("150000 100000\n", 2),
        ("10000 100000\n", 1),
        ("6400000 100000\n", 8),
        ("", 8),
    ],
)
def test_a_containers_quota_counts_where_it_is_less(quota, text, expected):
    quota.write_text(text)
    assert cores() == expected


def test_without_a_quota_the_affinity_counts(quota):
    assert cores() == 8


def test_where_there_is_no_affinity_the_machines_cores_count(quota, monkeypatch):
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 3)
    assert cores() == 3
