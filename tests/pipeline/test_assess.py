"""`vitlora evaluate FOLDER` on the test split's own files says what stage evaluate said."""

import json
import shutil

from faults.harness import vitlora

from vitlora.core.files import read_csv, read_json
from vitlora.storage.packed import Packed

METRICS = "metrics/evaluate"


def test_the_test_splits_files_get_the_scores_of_stage_evaluate(project, tmp_path):
    test, train = read_csv(project / "data/prepared/test/index.csv"), Packed(project / "data/prepared/train").rows
    for row in test:
        target = tmp_path / "mine" / row["path"]
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(project / "pictures" / row["path"], target)
    done = vitlora(project, "evaluate", tmp_path / "mine", "--out", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert "none of these pictures was used in training" in done.stdout
    for name in ("predictions.csv", "per_class.csv", "confusion.csv", "confusion.png"):
        assert (tmp_path / "out" / name).read_bytes() == (project / METRICS / name).read_bytes(), name
    ours, stage = (read_json(folder / "scores.json") for folder in (tmp_path / "out", project / METRICS))
    assert ours["accuracy"] == stage["accuracy"]
    shutil.copy(project / "pictures" / train[0]["path"], tmp_path / "mine" / train[0]["path"])
    found = json.loads(vitlora(project, "evaluate", tmp_path / "mine", "--json").stdout)
    assert (found["met"]["train"], found["met"]["val"], found["met"]["others"]["images"]) == (1, 0, len(test))
