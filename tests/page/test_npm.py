"""The registry is the one that npm would ask."""

import shutil

import pytest

from vitlora.core.errors import VitloraError
from vitlora.page.npm import registry

MIRROR = "https://mirror.test/npm/"


def npm(folder, body):
    """Put a program of that name into a folder."""
    folder.mkdir()
    (folder / "npm").write_text(f"#!/bin/sh\n{body}\n")
    (folder / "npm").chmod(0o755)
    return {"PATH": f"{folder}:/usr/bin:/bin"}


@pytest.mark.parametrize("name", ["npm_config_registry", "NPM_CONFIG_REGISTRY", "npm_Config_Registry"])
@pytest.mark.parametrize("value", [MIRROR, MIRROR.rstrip("/")])
def test_the_environment_comes_first_in_any_case_and_npm_is_not_asked(tmp_path, name, value):
    environment = npm(tmp_path / "bin", f"touch {tmp_path}/asked; echo https://other.test/")
    assert registry({**environment, name: value}) == MIRROR
    assert not (tmp_path / "asked").exists()


@pytest.mark.parametrize("empty", [{}, {"npm_config_registry": ""}])
def test_else_npm_says_it(tmp_path, empty):
    environment = npm(tmp_path / "bin", f'[ "$*" = "config get registry" ] && echo {MIRROR}')
    assert registry({**environment, **empty}) == MIRROR


@pytest.mark.parametrize("body", ["exit 1", "echo undefined", "echo", "echo file:///etc/"])
def test_an_npm_that_gives_no_address_is_a_line_with_three_cures(tmp_path, body):
    with pytest.raises(VitloraError, match=r"install npm, or set npm_config_registry to .*, or name .* with --runtime"):
        registry(npm(tmp_path / "bin", body))


def test_so_is_no_npm_and_the_variable_helps(tmp_path):
    with pytest.raises(VitloraError, match="no npm registry is known"):
        registry({"PATH": str(tmp_path)})
    assert registry({"PATH": str(tmp_path), "npm_config_registry": MIRROR}) == MIRROR


@pytest.mark.skipif(shutil.which("npm") is None, reason="no npm here: apt-get install npm")
@pytest.mark.parametrize("text", [f"registry={MIRROR}", 'registry = "${PLACE}npm/"'])
def test_a_real_npm_reads_its_own_files(tmp_path, text):
    (tmp_path / ".npmrc").write_text(text)
    environment = {"PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": str(tmp_path), "PLACE": "https://mirror.test/"}
    assert registry(environment) == MIRROR
