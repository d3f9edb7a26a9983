"""A search or a sweep whose pictures were changed while it ran says so."""

import results
import tiny

from vitlora.trials.sources import other_sources

NAMES = ("s-000", "s-001", "s-002")


def test_pictures_that_were_changed_while_runs_were_at_work_are_told(tmp_path, monkeypatch):
    root = results.make_repository(tmp_path / "project")
    tiny.commit(root)
    monkeypatch.chdir(root)
    for name, seen in zip(NAMES, ("2 files, aa", "2 files, aa", "3 files, bb"), strict=True):
        (root / "source.yaml").write_text(f"data: {seen}\n")
        results.experiment(root, name)
    assert list(other_sources(NAMES[:2], ["lora.r"])) == []
    (note,) = other_sources(NAMES, ["lora.r"])
    assert "source.yaml differs" in note
    assert list(other_sources(NAMES, ["data.path"])) == [], "on purpose"
