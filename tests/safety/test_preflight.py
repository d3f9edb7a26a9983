"""What is refused before DVC starts."""

import shutil

import pytest
import tiny

from vitlora.core.errors import VitloraError
from vitlora.safety.preflight import _refuse_own, refuse_outside


def test_outputs_behind_a_link_out_of_the_project_are_refused_before_any_work(tmp_path, monkeypatch):
    """DVC says so when the stage has ended, and keeps nothing of it."""
    here, elsewhere = tmp_path / "here", tmp_path / "elsewhere"
    for folder in (here / "data/real", elsewhere):
        folder.mkdir(parents=True)
    shutil.copy2(tiny.ROOT / "dvc.yaml", here)
    monkeypatch.chdir(here)
    (here / "data/prepared").symlink_to("real")
    refuse_outside()
    (here / "models").symlink_to(elsewhere)
    with pytest.raises(VitloraError, match=r"^models: leads to .*elsewhere; the rule: a real folder"):
        refuse_outside()


@pytest.mark.parametrize("path", ["data/raw", "data/raw/pets", "data", "./data/../data/raw"])
def test_pictures_where_download_writes_are_refused_while_they_are_there(tmp_path, monkeypatch, path):
    shutil.copy2(tiny.ROOT / "dvc.yaml", tmp_path)
    monkeypatch.chdir(tmp_path)
    for own in ("pictures", "data/mine"):
        _refuse_own({"data": {"source": "folder", "path": own}})
    with pytest.raises(VitloraError, match=f"data.path: got {path}, and data/raw is what download makes anew"):
        _refuse_own({"data": {"source": "folder", "path": path}})
