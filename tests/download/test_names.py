"""Names in archives are read as what they are, or refused with the encodings that they may be in; never guessed."""

import io
import re
import struct
import tarfile
import zipfile
import zlib

import pytest
from trees import read

from vitlora.core.errors import VitloraError
from vitlora.download.sources import from_archive

# Class names, and the encoding in which such a system packs them without saying so.
FOREIGN = {
    "gb18030": ["森林", "大海"],
    "big5": ["森林", "大海"],
    "cp932": ["ソフト", "表示", "犬"],  # whose second bytes are backslashes
    "euc_kr": ["고양이", "개"],
    "cp1251": ["кошка", "собака"],
    "cp437": ["Äpfel", "Müsli"],
    "cp1252": ["Äpfel", "Bœuf"],
}


DOS, UNIX, MACOS = 0, 3, 19


def zipped(path, names, encoding, flag=0, extra=lambda raw: b"", system=DOS):
    """Write a zip whose names are these bytes, as packers do that know nothing of Unicode."""
    members, table = io.BytesIO(), io.BytesIO()
    for name, data in names.items():
        raw = name.encode(encoding)
        field = extra(raw)
        sizes = struct.pack("<LLL", zlib.crc32(data), len(data), len(data))
        begin = members.tell()
        middle = struct.pack("<HHHHH", 20, flag, 0, 0, 33) + sizes + struct.pack("<HH", len(raw), len(field))
        members.write(b"PK\3\4" + middle + raw + field + data)
        table.write(
            b"PK\1\2" + struct.pack("<BB", 20, system) + middle + struct.pack("<HHHLL", 0, 0, 0, 0, begin) + raw + field
        )
    end = struct.pack("<HHHHLLH", 0, 0, len(names), len(names), len(table.getvalue()), members.tell(), 0)
    path.write_bytes(members.getvalue() + table.getvalue() + b"PK\5\6" + end)
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
    return path


def tarred(path, names, encoding):
    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT, encoding=encoding) as archive:
        for name, data in names.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


PACK = {"zip": zipped, "tar": tarred}


def pictures(names):
    return {f"{name}/{number}.jpg": bytes([number]) for number, name in enumerate(names)}


@pytest.mark.parametrize("encoding", FOREIGN)
@pytest.mark.parametrize("kind", PACK)
def test_names_in_another_encoding_are_refused_and_the_cure_reads_them(tmp_path, kind, encoding):
    names = FOREIGN[encoding]
    path = PACK[kind](tmp_path / f"a.{kind}", pictures(names), encoding)
    with pytest.raises(VitloraError, match="in an encoding that is not said") as error:
        from_archive(path)
    readings = dict(re.findall(r"(\w+) \(([^()]+)/\d\.jpg\)", str(error.value)))
    assert readings[encoding] in names
    assert read(from_archive(path, encoding)) == (
        sorted(names),
        {f"{name}/{number}.jpg": ("train", name, bytes([number])) for number, name in enumerate(names)},
    )


SAID = {"with the flag": (1 << 11, DOS), "from Linux": (0, UNIX), "from macOS": (0, MACOS)}


@pytest.mark.parametrize("said", SAID)
@pytest.mark.parametrize("names", FOREIGN.values(), ids=FOREIGN)
def test_names_in_utf8_are_read_with_the_flag_and_from_a_unix_without(tmp_path, names, said):
    flag, system = SAID[said]
    path = zipped(tmp_path / "a.zip", pictures(names), "utf-8", flag, system=system)
    assert from_archive(path).class_names == sorted(names)
    assert from_archive(tarred(tmp_path / "a.tar", pictures(names), "utf-8")).class_names == sorted(names)


def unicode_field(name_of, kind=0x7075, crc=zlib.crc32):
    def field(raw):
        content = b"\1" + struct.pack("<L", crc(raw)) + name_of(raw)
        return b"\x01\x00\x02\x00xx" + struct.pack("<HH", kind, len(content)) + content

    return field


def test_the_unicode_field_goes_before_the_plain_name(tmp_path):
    """As 7-Zip and WinRAR write it beside a name in the system's own encoding."""
    names = FOREIGN["gb18030"]
    extra = unicode_field(lambda raw: raw.decode("gb18030").encode())
    path = zipped(tmp_path / "a.zip", pictures(names), "gb18030", extra=extra)
    assert from_archive(path).class_names == sorted(names)
    assert from_archive(path, "cp437").class_names == sorted(names)


@pytest.mark.parametrize(
    "extra",
    [
        unicode_field(lambda raw: b"other/0.jpg", crc=lambda raw: 7),  # of the name before it was changed
        unicode_field(lambda raw: b"other/0.jpg", kind=0x6375),  # of a comment
        unicode_field(lambda raw: b"\xff\xfe"),
        lambda raw: b"\x75\x70\xff",
    ],
    ids=["another name's", "a comment's", "not UTF-8", "cut off"],
)
def test_a_unicode_field_that_does_not_belong_to_the_name_is_not_used(tmp_path, extra):
    path = zipped(tmp_path / "a.zip", pictures(FOREIGN["gb18030"]), "gb18030", extra=extra)
    with pytest.raises(VitloraError, match=r"set data\.name_encoding"):
        from_archive(path)


@pytest.mark.parametrize("kind", PACK)
def test_a_wrong_encoding_is_refused(tmp_path, kind):
    path = PACK[kind](tmp_path / f"a.{kind}", pictures(FOREIGN["cp1252"]), "cp1252")
    with pytest.raises(VitloraError, match="is not in utf-8, as data"):
        from_archive(path, "utf-8")


@pytest.mark.parametrize("encoding", [None, "cp932", "utf-16"])
def test_plain_names_need_no_encoding(tmp_path, encoding):
    assert from_archive(zipped(tmp_path / "a.zip", pictures(["cat", "dog"]), "ascii"), encoding).class_names == [
        "cat",
        "dog",
    ]


@pytest.mark.parametrize("name", ["猫", "帽", "脙篓"])
def test_bytes_that_happen_to_be_utf8_are_no_proof_in_a_zip_of_windows(tmp_path, name):
    """The two bytes of a Chinese character may be those of one European letter."""
    assert len(name.encode("gb18030").decode("utf-8")) < len(name) + 2
    path = zipped(tmp_path / "a.zip", pictures([name, "dog"]), "gb18030")
    with pytest.raises(VitloraError, match=rf"gb18030 \({name}/0\.jpg\)"):
        from_archive(path)
    for kind in PACK:
        path = PACK[kind](tmp_path / f"b.{kind}", pictures([name, "dog"]), "gb18030")
        assert from_archive(path, "gb18030").class_names == sorted([name, "dog"])
