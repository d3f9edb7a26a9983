"""Where npm would fetch a package from, by npm's own settings: the same mirror, without npm."""

import os
import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

from vitlora.core.errors import VitloraError
from vitlora.core.text import printable

PUBLIC = "https://registry.npmjs.org/"
LINE = re.compile(r"\s*registry\s*=\s*(.*?)\s*")
NAMED = re.compile(r"(?<!\\)\$\{([^}]+)\}")


def registry(environment: Mapping[str, str], folder: Path, home: Path) -> str:
    """Return the address of the registry, with a slash at its end.

    Args:
        environment: `npm_config_registry` comes first, in any case of its letters, as with npm.
        folder: Of the project; its .npmrc comes second, the user's third, the one of all users last.
        home: The user's folder.

    Raises:
        VitloraError: A file of settings can't be read.

    Source:
        https://docs.npmjs.com/cli/configuring-npm/npmrc and .../using-npm/config
    """
    settings = {name.lower(): value for name, value in environment.items() if name.lower().startswith("npm_config_")}
    found = settings.get("npm_config_registry") or next(_stated(settings, environment, folder, home), PUBLIC)
    return found.rstrip("/") + "/"


def _stated(settings: Mapping[str, str], environment: Mapping[str, str], folder: Path, home: Path) -> Iterator[str]:
    """Yield the registry of each file that names one, in the order in which npm looks."""
    node = shutil.which("node", path=environment.get("PATH", ""))
    prefix = settings.get("npm_config_prefix") or (Path(node).parent.parent if node else "/usr/local")
    user, everyone = settings.get("npm_config_userconfig"), settings.get("npm_config_globalconfig")
    for path in (folder / ".npmrc", Path(user or home / ".npmrc"), Path(everyone or Path(prefix, "etc/npmrc"))):
        found = _read(path, environment)
        if found:
            yield found


def _read(path: Path, environment: Mapping[str, str]) -> str:
    """Return the registry that a file names, the last one if there are several, empty if there is none."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines() if path.is_file() else []
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8"
        place = printable(str(path))
        raise VitloraError(f"cannot read npm's settings, {place}: {reason}; mend that file or move it away") from None
    found = ""
    for line in lines:
        if line.startswith("["):  # of a section, which npm passes over
            break
        if match := LINE.fullmatch(line):
            found = NAMED.sub(lambda each: environment.get(each[1], each[0]), match[1].strip("\"'"))
    return found


def home() -> Path:
    """Return the user's folder, also where the environment names none."""
    return Path(os.path.expanduser("~"))
