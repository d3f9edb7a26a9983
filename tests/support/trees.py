"""Folders and archives of files with known contents, and what a reader finds in them."""

import io
import tarfile
import zipfile

TARS = {"tar": "w:", "tar.gz": "w:gz", "tar.bz2": "w:bz2", "tar.xz": "w:xz"}
KINDS = ["zip", *TARS]


def fill(root, files):
    for name, data in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return root


def pack(path, files, folders=()):
    """Write an archive of the kind that its name says, members in the order given."""
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name in folders:
                archive.writestr(zipfile.ZipInfo(name.rstrip("/") + "/"), b"")
            for name, data in files.items():
                archive.writestr(zipfile.ZipInfo(name), data, zipfile.ZIP_DEFLATED)
        return path
    with tarfile.open(path, TARS[path.name.partition(".")[2]]) as archive:
        for name in folders:
            info = tarfile.TarInfo(name)
            info.type = tarfile.DIRTYPE
            archive.addfile(info)
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def read(found):
    """Class names, and split, class and bytes by path."""
    return found.class_names, {
        picture.path: (picture.split, found.class_names[picture.label], picture.data) for picture in found.pictures
    }
