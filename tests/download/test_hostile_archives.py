"""Archives made to write elsewhere, fill memory or disk, hang, or lose a picture: nothing is written, one line told."""

import bz2
import gzip
import io
import lzma
import os
import random
import stat
import struct
import subprocess
import sys
import tarfile
import time
import warnings
import zipfile
import zlib

import pytest
from tiny import ROOT

from vitlora.core.errors import VitloraError
from vitlora.download import archives
from vitlora.download.layout import ODD, OUTSIDE
from vitlora.download.sources import from_archive, from_folder

GOOD = {"cat/1.png": b"c1", "cat/2.png": b"c2", "dog/1.png": b"d1"}


def make_zip(path, members, method=zipfile.ZIP_DEFLATED):
    """Write members of (name, bytes, mode); the same name may come twice."""
    with zipfile.ZipFile(path, "w") as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a name that comes twice
        for name, data, mode in members:
            info = zipfile.ZipInfo(name)
            info.external_attr, info.compress_type = mode << 16, method
            archive.writestr(info, data)
    return path


def make_tar(path, members, mode="w"):
    """Write members of (name, bytes, type, link)."""
    with tarfile.open(path, mode) as archive:
        for name, data, kind, link in members:
            info = tarfile.TarInfo(name)
            info.size, info.type, info.linkname = len(data), kind, link
            archive.addfile(info, io.BytesIO(data))
    return path


def zipped(*members):
    """Good members, then these names or (name, mode)."""
    rest = [
        (member, b"evil", stat.S_IFREG) if isinstance(member, str) else (member[0], b"evil", member[1])
        for member in members
    ]
    return lambda path: make_zip(path, [(name, data, stat.S_IFREG) for name, data in GOOD.items()] + rest)


def tarred(*members):
    """Good members, then these names or (name, type, link)."""
    rest = []
    for member in members:
        name, kind, link = (member, tarfile.REGTYPE, "") if isinstance(member, str) else member
        rest.append((name, b"evil" if kind == tarfile.REGTYPE else b"", kind, link))
    return lambda path: make_tar(path, [(name, data, tarfile.REGTYPE, "") for name, data in GOOD.items()] + rest)


def raw_zip(members, method=0, crc=None):
    """Build a zip by hand from (name, stored bytes, claimed size), so that nothing need be true."""
    body, table = b"", b""
    for name, data, size in members:
        name = name.encode()
        check = zlib.crc32(data) if crc is None else crc
        known = struct.pack("<HHHHLLLHH", 0, method, 0, 33, check, len(data), size, len(name), 0)
        table += b"PK\1\2" + struct.pack("<HH", 20, 20) + known + struct.pack("<HHHLL", 0, 0, 0, 0, len(body)) + name
        body += b"PK\3\4" + struct.pack("<H", 20) + known + name + data
    return (
        body + table + struct.pack("<4sHHHHLLH", b"PK\5\6", 0, 0, len(members), len(members), len(table), len(body), 0)
    )


def written(data):
    return lambda path: path.write_bytes(data)


def deflated(data):
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    return packer.compress(data) + packer.flush()


def overlapping(path):
    """Two names in the table for one and the same bytes."""
    make_zip(path, [(name, data, stat.S_IFREG) for name, data in GOOD.items()] + [("dog/2.png", b"d2", stat.S_IFREG)])
    data = bytearray(path.read_bytes())
    rows = [at for at in range(len(data)) if data.startswith(b"PK\1\2", at)]
    data[rows[3] + 42 : rows[3] + 46] = data[rows[2] + 42 : rows[2] + 46]
    path.write_bytes(data)


def spoiled(make, mark, offset, value):
    """Change a byte behind the first mark."""

    def act(path):
        make(path)
        data = bytearray(path.read_bytes())
        data[data.find(mark) + offset] ^= value
        path.write_bytes(data)

    return act


def tar_header(name, size, kind=b"0", size_field=None):
    info = tarfile.TarInfo(name)
    info.size, info.type = size, kind
    head = bytearray(info.tobuf(tarfile.USTAR_FORMAT))
    if size_field is not None:
        head[124:136] = size_field
        head[148:156] = b"        "
        head[148:156] = b"%06o\0 " % sum(head)
    return bytes(head)


def sparse_tar(path):
    """A member of no bytes that claims to be a hole of 10 GB."""
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as archive:
        info = tarfile.TarInfo("cat/hole.png")
        info.pax_headers = {"GNU.sparse.map": "0,0", "GNU.sparse.size": "10000000000", "GNU.sparse.numblocks": "1"}
        archive.addfile(info)
        for name, data in GOOD.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))


ZEROS = bytes(30_000_000)
REFUSED = {  # what makes it, and what the one line says
    "name twice, zip": (zipped("dog/1.png"), r"holds dog/1\.png twice"),
    "name twice, tar": (tarred("./dog//1.png"), r"holds dog/1\.png twice"),
    "absolute twin, zip": (zipped("/dog/1.png"), r"holds dog/1\.png twice"),
    "absolute twin, tar": (tarred("/dog/1.png"), r"holds dog/1\.png twice"),
    "backslash twin, zip": (zipped("dog\\1.png"), r"holds dog/1\.png twice"),
    "class with a newline": (tarred("e\nvil/1.png"), r"has the class 'e\\nvil'; the rule"),
    "class with an escape": (zipped("\x1b[2J/1.png"), r"has the class '\\x1b\[2J'"),
    "class with a C1 control": (zipped("\x9b2J/1.png"), r"has the class '\\x9b2J'"),
    "overlap": (overlapping, r"overlaps dog/2\.png; a zip stores no byte twice"),
    "wrong checksum": (spoiled(zipped(), b"PK\1\2", 16, 1), r"cannot read cat/1\.png: Bad CRC-32"),
    "encrypted": (spoiled(spoiled(zipped(), b"PK\3\4", 6, 1), b"PK\1\2", 8, 1), r"cannot read cat/1\.png: .*encrypted"),
    "name differs in the table": (spoiled(zipped(), b"PK\1\2", 46, 1), "cannot read "),
    "bzip2 inside a zip": (
        lambda path: make_zip(path, [("a/1.png", b"x", 0), ("b/1.png", b"x", 0)], zipfile.ZIP_BZIP2),
        r"cannot read a/1\.png: compression 12; the rule: stored or deflated",
    ),
    "one member that is a bomb": (
        lambda path: make_zip(path, [("cat/1.png", ZEROS, 0), ("dog/1.png", random.Random(0).randbytes(300_000), 0)]),
        r"cat/1\.png unpacks [\d,]+ bytes to 30,000,000 or more; the rule: at most 200-fold",
    ),
    "many small bombs": (
        lambda path: make_zip(path, [(f"cat/{n}.png", bytes(5_000_000), 0) for n in range(6)]),
        r"x\.zip unpacks [\d,]+ bytes to 30,000,000 or more",
    ),
    "a claim of 60 GB": (
        written(raw_zip([(f"cat/{n}.png", b"x", 4_000_000_000) for n in range(15)])),
        r"cat/0\.png unpacks 1 bytes to 4,000,000,000",
    ),
    "a bomb that claims to be small": (
        written(raw_zip([("cat/1.png", deflated(ZEROS), 100), ("dog/1.png", b"", 0)], 8)),
        r"cannot read cat/1\.png: Bad CRC-32",
    ),
    "a picture of 51 MB": (
        lambda path: make_zip(path, [("a/1.png", bytes(51_000_000), 0), ("b/1.png", b"x", 0)], zipfile.ZIP_STORED),
        r"cannot read a/1\.png: 51,000,000 bytes; the rule: at most 50,000,000",
    ),
    "gzip bomb": (written(gzip.compress(ZEROS)), "unpacks 29,[0-9]{3} bytes to 10,485,760 or more"),
    "bzip2 bomb": (written(bz2.compress(ZEROS)), "or more; the rule: at most 200-fold"),
    "xz bomb": (written(lzma.compress(ZEROS)), "or more; the rule: at most 200-fold"),
    "long name of 60 MB": (
        written(tar_header("././@LongLink", 60_000_000, b"L") + bytes(60_001_000)),
        "a header of 60,000,256 bytes",
    ),
    "pax header that claims 8 GB": (
        written(tar_header("x", 8_000_000_000, b"x") + bytes(10_240)),
        "a header of 8,000,000,000",
    ),
    "negative size": (written(tar_header("cat/1.png", 0, b"0", b"\xff" * 12) + bytes(1024)), "neither a whole zip nor"),
    "negative long name": (
        written(tar_header("cat/1.png", 0, b"L", b"\xff" * 12) + bytes(1024)),
        "neither a whole zip nor",
    ),
    "gzip cut": (written(gzip.compress(random.Random(0).randbytes(9999))[:-9]), "neither a whole zip nor"),
    "zip in gzip": (
        lambda path: path.write_bytes(gzip.compress(zipped()(path).read_bytes())),
        "neither a whole zip nor",
    ),
    "table past the start": (
        written(b"PK\5\6" + struct.pack("<HHHHLLH", 0, 0, 1, 1, 9999, 0, 0)),
        "neither a whole zip",
    ),
    "table of 4 GB": (
        written(b"PK\5\6" + struct.pack("<HHHHLLH", 0, 0, 1, 1, 0xFFFFFFF0, 0, 0)),
        "has a table of 4,294,967,280",
    ),
}
LEFT_OUT = {  # what makes it, and the names that are left out with a note
    "up, zip": (zipped("../evil.png", "cat/../../evil.png", "..\\evil.png", "cat/.."), 4),
    "up, tar": (tarred("../evil.png", "cat/../../evil.png", "/../evil.png", ".."), 4),
    "links, zip": (zipped(("cat/l.png", stat.S_IFLNK), ("bird", stat.S_IFLNK)), 2),
    "links, tar": (
        tarred(
            ("cat/l.png", tarfile.SYMTYPE, "/etc/passwd"),
            ("cat/h.png", tarfile.LNKTYPE, "../../outside"),
            ("cat/t.png", tarfile.LNKTYPE, "cat/1.png"),
            ("loop", tarfile.SYMTYPE, "loop"),
        ),
        4,
    ),
    "devices, zip": (
        zipped(*((f"cat/{n}", kind) for n, kind in enumerate((stat.S_IFCHR, stat.S_IFBLK, stat.S_IFSOCK)))),
        3,
    ),
    "devices, tar": (tarred(("cat/c", tarfile.CHRTYPE, ""), ("cat/b", tarfile.BLKTYPE, "")), 2),
    "pipes, zip": (zipped(("cat/pipe.png", stat.S_IFIFO)), 1),
    "pipes, tar": (tarred(("cat/pipe.png", tarfile.FIFOTYPE, "")), 1),
    "sparse": (sparse_tar, 1),
}


def below(folder):
    return {path: path.lstat().st_mtime_ns for path in folder.rglob("*")}


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder three deep, which is the working one, and how an archive's name is made."""
    deep = tmp_path / "a/b/c"
    (deep / "scratch").mkdir(parents=True)
    monkeypatch.chdir(deep)
    return tmp_path, deep


@pytest.mark.parametrize("name", REFUSED)
def test_a_hostile_archive_is_refused_in_one_line_and_writes_nothing(place, name):
    root, deep = place
    make, said = REFUSED[name]
    make(deep / "x.zip")
    before, start = below(root), time.perf_counter()
    with pytest.raises(VitloraError, match=said) as caught:
        list(from_archive(deep / "x.zip", deep / "scratch").pictures)
    assert time.perf_counter() - start < 3
    assert "\n" not in str(caught.value)
    assert below(root) == before


@pytest.mark.parametrize("name", LEFT_OUT)
def test_a_member_that_leads_out_or_is_no_file_is_left_out_and_named(place, name):
    root, deep = place
    make, count = LEFT_OUT[name]
    make(deep / "x.zip")
    before = below(root)
    found = from_archive(deep / "x.zip", deep / "scratch")
    assert {picture.path: picture.data for picture in found.pictures} == GOOD
    assert sum(map(len, found.left_out.values())) == count
    assert found.left_out.keys() <= {ODD, OUTSIDE}
    assert below(root) == before


def test_names_that_would_fill_the_memory_between_them_are_refused(place, monkeypatch):
    _, deep = place
    monkeypatch.setattr(archives, "MAX_HEADERS", 1_000_000)
    name = tar_header("././@LongLink", 400_000, b"L") + b"a/".ljust(400_384, b"a") + tar_header("x", 0)
    (deep / "x.tar").write_bytes(name * 3 + bytes(1024))
    with pytest.raises(VitloraError, match="a header of 400,384 bytes"):
        from_archive(deep / "x.tar")


def test_an_archive_inside_an_archive_is_not_opened(place):
    _, deep = place
    inner = zipped()(deep / "inner.zip").read_bytes()
    make_zip(deep / "x.zip", [("cat/inner.zip", inner, 0), ("dog/1.png", b"d", 0)])
    assert {p.path: p.data for p in from_archive(deep / "x.zip").pictures} == {
        "cat/inner.zip": inner,
        "dog/1.png": b"d",
    }


def test_names_that_differ_only_in_case_or_unicode_form_are_two_pictures_since_nothing_is_unpacked(place):
    _, deep = place
    names = ["cat/A.png", "cat/a.png", "cat/é.png", "cat/e\u0301.png"]
    make_zip(deep / "x.zip", [(name, name.encode(), 0) for name in names])
    assert {p.path: p.data for p in from_archive(deep / "x.zip").pictures} == {name: name.encode() for name in names}


def test_blank_pictures_that_shrink_a_thousandfold_are_no_bomb(place):
    _, deep = place
    make_zip(deep / "x.zip", [(f"{name}/1.png", bytes(2_000_000), 0) for name in ("cat", "dog")])
    assert [len(picture.data) for picture in from_archive(deep / "x.zip").pictures] == [2_000_000] * 2


MEASURED = """
import resource, sys, time
from pathlib import Path
from vitlora.download.sources import from_archive
start, memory = time.perf_counter(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    list(from_archive(Path(sys.argv[1])).pictures)
except Exception as error:
    print(error)
print(time.perf_counter() - start)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory)
"""


def long_zip(path, count, claimed):
    row = struct.pack("<4sHHHHHHLLLHHHHHLL", b"PK\1\2", 20, 20, 0, 0, 0, 33, 0, 0, 0, 11, 0, 0, 0, 0, 0, 0)
    table = b"".join(row + b"cat/%07d" % number for number in range(count))
    last = struct.pack("<4sHHHHLLH", b"PK\5\6", 0, 0, claimed, claimed, len(table), 0, 0)
    if claimed == 0xFFFF:
        wide = struct.pack("<4sQHHLLQQQQ", b"PK\6\6", 44, 45, 45, 0, 0, count, count, len(table), 0)
        last = wide + struct.pack("<4sLQL", b"PK\6\7", 0, len(table), 1) + last
    path.write_bytes(table + last)


@pytest.mark.parametrize("claimed", [0xFFFF, 3], ids=["honest", "lying"])
def test_a_zip_of_a_million_members_is_refused_within_seconds_and_flat_memory(tmp_path, claimed):
    long_zip(tmp_path / "x.zip", 1_000_000, claimed)
    done = subprocess.run(
        [sys.executable, "-c", MEASURED, tmp_path / "x.zip"],
        env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
        capture_output=True,
        text=True,
        timeout=60,
    )
    said, seconds, kilobytes = done.stdout.splitlines()
    assert "has more than 500,000 members" in said
    assert float(seconds) < 2
    assert float(kilobytes) * (1 if sys.platform == "linux" else 1 / 1024) < 150_000


def test_a_tar_stops_at_the_member_that_is_one_too_many(tmp_path, monkeypatch):
    monkeypatch.setattr(archives, "MAX_ENTRIES", 4)
    tarred()(tmp_path / "x.tar")
    assert len(list(from_archive(tmp_path / "x.tar").pictures)) == 3
    tarred("dog/2.png", "dog/3.png")(tmp_path / "x.tar")
    with pytest.raises(VitloraError, match="has more than 4 members"):
        from_archive(tmp_path / "x.tar")


@pytest.mark.parametrize("kind", ["zip", "tar.gz"])
def test_an_archive_that_unpacks_to_more_than_the_disk_should_hold_is_refused(tmp_path, monkeypatch, kind):
    monkeypatch.setattr(archives, "MAX_UNPACKED", 1_000)
    path = tmp_path / f"x.{kind}"
    noise = [(f"cat/{n}.png", random.Random(n).randbytes(600)) for n in range(2)]
    if kind == "zip":
        make_zip(path, [(name, data, 0) for name, data in noise])
    else:
        make_tar(path, [(name, data, tarfile.REGTYPE, "") for name, data in noise], "w:gz")
    with pytest.raises(VitloraError, match=r"unpacks to [\d,]+ bytes; the rule: at most 1,000"):
        from_archive(path)


def test_sockets_devices_and_loops_in_a_folder_are_left_out_at_once(tmp_path):
    import socket

    for name, data in GOOD.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(data)
    (tmp_path / "cat/null.png").symlink_to("/dev/zero")
    (tmp_path / "cat/self").symlink_to(tmp_path / "cat/self")
    (tmp_path / "cat/up").symlink_to(tmp_path)
    os.mkfifo(tmp_path / "cat/pipe.png")
    with socket.socket(socket.AF_UNIX) as held, pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path / "cat")
        held.bind("socket.png")
        start = time.perf_counter()
        found = from_folder(tmp_path)
        assert {picture.path: picture.data for picture in found.pictures} == GOOD
    assert time.perf_counter() - start < 1
    assert sum(map(len, found.left_out.values())) == 5


def test_there_are_twenty_hostile_archives_at_least():
    assert len(REFUSED) + len(LEFT_OUT) >= 20
