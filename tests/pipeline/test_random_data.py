"""Random small data sets go through download and preprocess: right classes and counts, or a refusal that says why."""

from contextlib import nullcontext
from pathlib import PurePosixPath

import data_trees
import pytest
import tiny

from vitlora.core.errors import VitloraError
from vitlora.core.files import read_json
from vitlora.core.params import load_params, read_document
from vitlora.download.params import DownloadStage
from vitlora.download.stage import download
from vitlora.images.sandbox import Isolated
from vitlora.preprocess import stage as module
from vitlora.preprocess.params import PreprocessStage
from vitlora.storage.packed import Packed
from vitlora.storage.squares import load_split

TREES, SHARE = 500, 50
OFTEN = 150  # trees of them; the others take their time in `make faults`
NAMED_ABOVE = "named above"  # on the screen, so that each fault is told once


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    root = tmp_path_factory.mktemp("base")
    tiny.make_base(root / "base")
    return root / "base"


@pytest.fixture
def one_process(monkeypatch):
    with Isolated(1) as workers:
        monkeypatch.setattr(module, "Isolated", lambda count: nullcontext(workers))
        yield


def run(tree, root, base):
    """Run both stages; return the folder of their outputs."""
    place = data_trees.write(tree, root)
    document = read_document(tiny.DIGITS)
    document["data"] |= {**tree.data, "path": str(place)}
    document["model"] |= {"source": "folder", "path": str(base)}
    document["ingest"] |= tree.ingest
    document["image"]["size_px"] = 8
    fetch = load_params(DownloadStage, document, root)
    download(fetch.data, fetch.model, root / "raw", root / "base")
    made = load_params(PreprocessStage, document, root)
    places = [root / name for name in ("train", "val", "test", "labels.json", "report.html", "report.json")]
    module.preprocess(made.ingest, made.image, made.split, root / "raw", *places)
    return root


def check(tree, out):
    """Compare what the stages have made with the truth."""
    names = sorted({name for _, name in tree.truth.values()})
    assert read_json(out / "labels.json")["class_names"] == names
    splits = {"train": [(row["path"], int(row["label"])) for row in Packed(out / "train").rows]}
    for name in ("val", "test"):
        squares = load_split(out / name)
        splits[name] = list(zip(squares.paths, squares.labels.tolist(), strict=True))
    found = {path: (split, names[label]) for split, rows in splits.items() for path, label in rows}
    assert len(found) == sum(map(len, splits.values())), "each picture is in one split"
    gone = {*tree.broken, *tree.doubled}
    truth = {short(path, tree): value for path, value in tree.truth.items() if path not in gone}
    assert {short(path, tree): name for path, (_, name) in found.items()} == {p: name for p, (_, name) in truth.items()}
    official = {split for split, _ in truth.values()} - {"train"}
    held = "test" if "test" in official else "val"
    for path, (split, _) in found.items():
        came_from = truth[short(path, tree)][0]
        assert (split == "test") == (came_from == held) if official else split in splits
    report = read_json(out / "report.json")
    assert (report["bad"], report["left_out"]) == (len(tree.broken), tree.unused)
    assert report["duplicates_left_out"] == len(tree.doubled)


def short(path, tree):
    """Return a picture's name without the folders that are looked through: split, class, number."""
    parts = PurePosixPath(path).parts
    if "train.csv" in tree.files:
        return path
    tops = [part for part in parts[:-2] if any(part in spellings for spellings in data_trees.SPLITS.values())]
    return (*tops[:1], *parts[-3:]) if parts[-2] == "more" else (*tops[:1], *parts[-2:])


@pytest.mark.slow
@pytest.mark.parametrize(
    "first", [pytest.param(first, marks=[pytest.mark.faults] * (first >= OFTEN)) for first in range(0, TREES, SHARE)]
)
def test_random_data_is_read_right_or_refused_with_the_culprit(first, base, tmp_path, one_process, capsys):
    refused = 0
    for seed in range(first, first + SHARE):
        tree = data_trees.grow(seed)
        out = tmp_path / str(seed)
        out.mkdir()
        said = ""
        capsys.readouterr()
        try:
            run(tree, out, base)
        except VitloraError as error:
            said = f"{error}\n{capsys.readouterr().out if NAMED_ABOVE in str(error) else ''}"
        refused += bool(said)
        assert bool(said) == bool(tree.culprits), f"seed {seed}: {tree.culprits} should stop it; said: {said}"
        if said:
            assert any(culprit in said for culprit in tree.culprits), f"seed {seed}: {tree.culprits}: {said}"
        else:
            check(tree, out)
    assert 3 < refused < SHARE - 10
