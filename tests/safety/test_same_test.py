"""After preprocess: how many test pictures are those of the run before."""

from vitlora.core.files import write_csv
from vitlora.safety.same_test import tell_same_test


def told(tmp_path, capsys, *digests):
    write_csv(tmp_path / "index.csv", ("path", "sha256"), ((f"{name}.png", name) for name in digests))
    tell_same_test(tmp_path / "index.csv", tmp_path / "work/note.txt")
    return capsys.readouterr().out


def test_the_first_run_and_one_with_the_same_pictures_say_nothing(tmp_path, capsys):
    assert told(tmp_path, capsys, "aa", "bb", "cc") == ""
    assert told(tmp_path, capsys, "cc", "bb", "aa") == ""


def test_other_test_pictures_are_counted_once(tmp_path, capsys):
    told(tmp_path, capsys, "aa", "bb", "cc")
    expected = "test: 2 of 4 pictures as in the run before, 2 new, 1 gone; compare over those\n"
    assert told(tmp_path, capsys, "bb", "cc", "dd", "ee") == expected
    assert told(tmp_path, capsys, "bb", "cc", "dd", "ee") == ""


def test_no_common_picture_is_said_to_allow_no_comparison(tmp_path, capsys):
    told(tmp_path, capsys, "aa")
    assert told(tmp_path, capsys, "bb") == (
        "test: 0 of 1 picture as in the run before, 1 new, 1 gone; accuracies of the two tell nothing of each other\n"
    )
