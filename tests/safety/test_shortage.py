"""A full disk is told in a line, with the room that is left where the file was to be."""

import errno
import os

import pytest

from vitlora.core.errors import VitloraError
from vitlora.safety.shortage import shortage_named


def told(number, *named):
    with pytest.raises(VitloraError) as caught, shortage_named("report"):
        raise OSError(number, os.strerror(number), *named)
    return str(caught.value)


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="a disk of no size, which is Linux's")
def test_the_room_is_that_of_the_disk_that_is_full():
    assert told(errno.ENOSPC, "/proc/gone/x") == "report: disk full at /proc/gone/x, 0.0 MB free; make room, run again"


def test_where_no_file_is_named_the_room_is_said_to_be_of_this_folder():
    assert "a file or in what is printed; " in told(errno.ENOSPC)
    assert told(errno.ENOSPC).endswith(" free in this folder; make room, run again")


def test_a_limit_on_the_size_of_files_is_named():
    assert told(errno.EFBIG).startswith("report: a file is larger than ulimit -f or its disk allows; ")


def test_no_room_is_asked_for_where_nothing_may_be_written():
    assert told(errno.EROFS, "x").startswith("report: read-only file system at x; make it writable, or work in a copy ")


def test_a_place_of_somebody_else_is_no_traceback():
    assert told(errno.EACCES, "x").startswith(
        "report: permission denied at x; the rule: what it reads and writes is yours; "
    )
