"""Where npm would fetch a package from: the same mirror, by npm's own answer."""

import shutil
import subprocess
from collections.abc import Mapping

from vitlora.core.errors import VitloraError

PATIENCE_S = 30


def registry(environment: Mapping[str, str]) -> str:
    """Return the address of the registry, with a slash at its end.

    Args:
        environment: `npm_config_registry` names it, in any case of its letters, as with npm; else npm itself is asked,
            which reads its files and knows the public one.

    Raises:
        VitloraError: No registry is named and npm is not there, or gives no address.

    Source:
        https://docs.npmjs.com/cli/using-npm/config
    """
    named = next((value for name, value in environment.items() if name.lower() == "npm_config_registry" and value), "")
    found = named or _asked(environment)
    if not found:
        raise VitloraError(
            "no npm registry is known, from which the runtime comes; install npm, or set npm_config_registry to the "
            "registry's address, or name the package's file with --runtime"
        )
    return found.rstrip("/") + "/"


def _asked(environment: Mapping[str, str]) -> str:
    program = shutil.which("npm", path=environment.get("PATH", ""))
    if program is None:
        return ""
    command = [program, "config", "get", "registry"]
    try:
        done = subprocess.run(command, env=dict(environment), capture_output=True, text=True, timeout=PATIENCE_S)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    said = done.stdout.strip()
    return said if said.startswith(("https://", "http://")) else ""  # `undefined` and the like
