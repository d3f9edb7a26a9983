"""The same inputs give the same bytes, whatever the folder, hash seed, number of loader workers or of checkpoints."""

import hashlib
from pathlib import Path

import pytest
import tiny


def hashes(root: Path) -> dict[str, str]:
    files = [path for top in ("data", "models", "metrics") for path in (root / top).rglob("*") if path.is_file()]
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
        if path.name != ".gitignore" and path.parent.name != "ran"  # seconds differ
    }


@pytest.mark.survives("F57", "another folder, hash seed and number of loader workers: same bytes")
def test_two_runs_from_scratch_give_the_same_bytes(finished_run, tmp_path):
    """So a change of workers or checkpoints reruns training, and nothing follows."""
    params = {"train.dataloader_num_workers": 2, "train.save_steps": 3}
    other = tiny.make_project(tmp_path / "another" / "folder", params)
    tiny.dvc(other, "repro", env={"PYTHONHASHSEED": "12345"})
    assert hashes(other) == hashes(finished_run)
    assert len(hashes(other)) > 20
