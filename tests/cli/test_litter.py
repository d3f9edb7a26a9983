"""What a system or program leaves behind is nobody's picture, whichever verb walks through the folder."""

import json
import os
from argparse import Namespace

import pytest
from corpus import noisy, saved
from foreign import predict

from vitlora.cli.inspect import below, report
from vitlora.cli.verify import act
from vitlora.core.errors import VitloraError
from vitlora.download.layout import LITTERED
from vitlora.download.sources import from_folder
from vitlora.predict.inputs import names
from vitlora.safety.source import _seen
from vitlora.storage.manifest import write_manifest

PICTURES = ("cat/1.png", "cat/deep/2.png", "dog/3.png")
# Of Windows, macOS, Synology, QNAP, Linux, Python and Git; half of them hold pictures of their own.
LITTER = (
    "Thumbs.db",
    "cat/Thumbs.db",
    "cat/THUMBS.DB",
    "cat/ehthumbs.db",
    "dog/desktop.ini",
    "dog/Desktop.ini",
    ".DS_Store",
    "cat/.DS_Store",
    "cat/._1.png",
    "__MACOSX/cat/._1.png",
    "__MACOSX/cat/1.png",
    "dog/Icon\r",
    "@eaDir/x.png",
    "cat/@eaDir/1.png/SYNOPHOTO_THUMB_M.jpg",
    "#recycle/cat/9.png",
    "@Recycle/9.png",
    "dog/.thumbnails/3.png",
    "$RECYCLE.BIN/S-1-5/x.png",
    "System Volume Information/IndexerVolumeGuid",
    "lost+found/4.png",
    "dog/__pycache__/x.pyc",
    ".git/objects/x.png",
)
# Nearly litter, and pictures all the same.
ALIKE = (
    "cat/thumbs.db.png",
    "cat/icon.png",
    "dog/desktop.ini.jpg",
    "dog/eaDir/5.png",
    "cat/__MACOSX.png",
    "cat/a.b.png",
)


def fill(root, files=(*PICTURES, *LITTER, *ALIKE)):
    for number, name in enumerate(files):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(saved(noisy(9, 9, number), "PNG"))
    return root


def below_root(root, found):
    return sorted(os.path.relpath(path, root) for path in found)


def test_download_and_predict_take_the_same_files(tmp_path):
    root = fill(tmp_path / "pets")
    found = from_folder(root)
    taken = sorted(picture.path for picture in found.pictures)
    assert taken == sorted([*PICTURES, *ALIKE])
    assert below_root(root, names([str(root)])) == taken
    assert sorted(found.left_out[LITTERED]) == sorted(LITTER)


@pytest.mark.parametrize("name", LITTER)
def test_each_kind_is_passed_over_alone(tmp_path, name):
    root = fill(tmp_path / "pets", (*PICTURES, name))
    assert below_root(root, names([str(root)])) == sorted(PICTURES)
    assert from_folder(root).left_out == {LITTERED: [name]}


def test_inspect_judges_every_file_and_says_which_are_litter(tmp_path):
    root, decoded = fill(tmp_path / "pets"), tmp_path / "decoded"
    decoded.mkdir()
    files = [os.path.relpath(path, root) for path in below(str(root), decoded)]
    lines = {line["file"]: line for line in report(root, decoded, files)}
    assert sorted(name for name, line in lines.items() if line["litter"]) == sorted(LITTER)
    assert {line["verdict"] for line in lines.values()} == {"accept"}


@pytest.mark.slow
def test_predict_on_a_folder_with_litter_ends_well_and_names_what_is_no_picture(model, tmp_path):
    root = fill(tmp_path / "pets")
    (root / "cat/Thumbs.db").write_bytes(b"\xd0\xcf\x11\xe0 no picture")
    (root / "dog/desktop.ini").write_bytes(b"[.ShellClassInfo]\n")
    shown, said = predict(model, "--json", root)
    assert sorted(json.loads(line)["image"] for line in shown.splitlines()) == sorted(
        f"{root}/{name}" for name in [*PICTURES, *ALIKE]
    )
    assert said == ""
    (root / "cat/notes.txt").write_bytes(b"no picture")
    _, said = predict(model, root, code=1)
    assert f"{root}/cat/notes.txt: not a picture of a known format" in said
    assert said.splitlines()[-1] == "error: 1 picture could not be read; named above"


@pytest.mark.slow
def test_a_link_to_a_folder_is_named_and_named_itself_it_is_read(model, tmp_path):
    root, other = fill(tmp_path / "pets", PICTURES), fill(tmp_path / "disk", ("7.png", "8.png"))
    (root / "cow").symlink_to(other)
    (root / "cat/link.png").symlink_to(other / "7.png")
    shown, said = predict(model, root, code=1)
    assert f"{root}/cat/link.png: " in shown
    assert f"{root}/cow: a link to a folder, which is not followed; name it itself to read what lies there\n" in said
    shown, said = predict(model, root / "cow")
    assert (shown.count(f"{root}/cow/"), said) == (2, "")


def test_what_was_hidden_but_is_named_is_read(tmp_path):
    root = fill(tmp_path / ".hidden/@eaDir", ("a.png", ".b.png"))
    assert list(names([str(root), str(root / ".b.png")])) == [str(root / "a.png"), str(root / ".b.png")]


@pytest.mark.parametrize("name", ["cat/.DS_Store", "Thumbs.db", "cat/@eaDir/1.png/x.jpg"])
def test_litter_that_appears_is_no_new_data_but_a_new_picture_is(tmp_path, name):
    root = fill(tmp_path / "pets", PICTURES)
    section = {"source": "folder", "path": str(root)}
    before = _seen(section, None, {}, {})
    assert before.startswith("3 files, ")
    fill(root, (name,))
    assert _seen(section, None, {}, {}) == before
    assert _seen({**section, "source": "hub_folder"}, None, {}, {}).startswith("4 files, ")
    fill(root, ("cat/thumbs.db.png",))
    assert _seen(section, None, {}, {}).startswith("4 files, ")


@pytest.mark.parametrize(("name", "is_foreign"), [(".DS_Store", False), ("Thumbs.db", False), ("model2.bin", True)])
def test_verify_finds_strangers_in_a_copied_folder_but_not_what_a_system_left(tmp_path, capsys, name, is_foreign):
    (tmp_path / "config.json").write_text("{}")
    write_manifest(tmp_path)
    (tmp_path / name).write_bytes(b"x")
    if is_foreign:
        with pytest.raises(VitloraError, match="1 finding, named above; copy the folder anew"):
            act(Namespace(folders=[tmp_path]))
        assert capsys.readouterr().out == f"{tmp_path / name}: not in the manifest\n"
    else:
        act(Namespace(folders=[tmp_path]))
        assert capsys.readouterr().out == "1 folder: sound\n"
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(VitloraError, match=r"\d findings?, named above"):
        act(Namespace(folders=[tmp_path]))
