"""What is installed is what was looked at: every package pinned and hashed, none older than a known hole."""

import re

import pytest
import tiny

# The first versions without a hole that matters here.
FIRST_SAFE = {
    "torch": (2, 10),  # CVE-2026-24747, CVE-2025-32434: pickles run code in spite of weights_only
    "pillow": (12, 3),
}


def pins():
    """Return name, version and number of hashes of each requirement."""
    text = (tiny.ROOT / "requirements.lock").read_text().replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    return [
        (*re.match(r"([\w.-]+)(?:\[[\w,-]+\])?==(\S+)", line).groups(), line.count("--hash=sha256:")) for line in lines
    ]


def test_every_requirement_is_pinned_and_hashed():
    found = pins()
    assert len(found) > 100
    assert [name for name, _, hashes in found if not hashes] == []


@pytest.mark.parametrize("name", FIRST_SAFE)
def test_no_pin_is_older_than_a_known_hole(name):
    versions = [tuple(map(int, version.split(".")[:2])) for found, version, _ in pins() if found == name]
    assert versions
    assert min(versions) >= FIRST_SAFE[name]
