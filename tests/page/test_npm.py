"""The registry is the one that npm would ask."""

import shutil
import subprocess

import pytest

from vitlora.core.errors import VitloraError
from vitlora.page.npm import PUBLIC, registry

MIRROR = "https://mirror.test/npm/"


@pytest.fixture
def places(tmp_path):
    for name in ("project", "home", "everyone"):
        (tmp_path / name).mkdir()
    environment = {"npm_config_globalconfig": str(tmp_path / "everyone/npmrc"), "PATH": ""}
    return tmp_path / "project", tmp_path / "home", tmp_path / "everyone/npmrc", environment


def test_without_settings_it_is_the_public_one(places):
    project, home, _, environment = places
    assert registry(environment, project, home) == PUBLIC


@pytest.mark.parametrize("name", ["npm_config_registry", "NPM_CONFIG_REGISTRY", "npm_Config_Registry"])
def test_the_environment_comes_first_in_any_case(places, name):
    project, home, _, environment = places
    (project / ".npmrc").write_text("registry=https://other.test/")
    assert registry({**environment, name: MIRROR}, project, home) == MIRROR


def test_an_empty_name_in_the_environment_is_none(places):
    project, home, _, environment = places
    (home / ".npmrc").write_text(f"registry={MIRROR}")
    assert registry({**environment, "npm_config_registry": ""}, project, home) == MIRROR


def test_the_project_comes_before_the_user_and_the_user_before_everyone(places):
    project, home, everyone, environment = places
    files = [everyone, home / ".npmrc", project / ".npmrc"]
    for number, file in enumerate(files):
        file.write_text(f"registry=https://number{number}.test/")
        assert registry(environment, project, home) == f"https://number{number}.test/"


def test_the_file_of_all_users_lies_below_the_prefix(places, tmp_path):
    project, home, _, _ = places
    (tmp_path / "prefix/etc").mkdir(parents=True)
    (tmp_path / "prefix/etc/npmrc").write_text(f"registry={MIRROR}")
    assert registry({"npm_config_prefix": str(tmp_path / "prefix")}, project, home) == MIRROR
    (tmp_path / "prefix/bin").mkdir()
    (tmp_path / "prefix/bin/node").write_text("#!/bin/sh\n")
    (tmp_path / "prefix/bin/node").chmod(0o755)
    assert registry({"PATH": str(tmp_path / "prefix/bin")}, project, home) == MIRROR


def test_the_users_file_may_have_another_name(places, tmp_path):
    project, home, _, environment = places
    (home / ".npmrc").write_text("registry=https://other.test/")
    (tmp_path / "mine").write_text(f"registry={MIRROR}")
    assert registry({**environment, "NPM_CONFIG_USERCONFIG": str(tmp_path / "mine")}, project, home) == MIRROR


@pytest.mark.parametrize(
    "text",
    [
        f"registry={MIRROR}",
        "registry = https://mirror.test/npm",
        f'\ufeff; a comment\n# another\n\nfund=false\r\n  registry  =  "{MIRROR}"\r\nsave=true',
        f"registry=https://first.test/\nregistry={MIRROR}",
        "registry=${PLACE}npm/",
        f"@scope:registry=https://other.test/\n//mirror.test/:_authToken=secret\nregistry={MIRROR}",
        f"registry={MIRROR}\n[section]\nregistry=https://other.test/",
    ],
)
def test_a_file_is_read_as_npm_reads_it(places, text):
    project, home, _, environment = places
    (home / ".npmrc").write_text(text, encoding="utf-8")
    assert registry({**environment, "PLACE": "https://mirror.test/"}, project, home) == MIRROR


@pytest.mark.parametrize(
    "text", ["", ";registry=https://x.test/", "@scope:registry=https://x.test/", "myregistry=https://x.test/"]
)
def test_what_names_no_registry_is_passed_over(places, text):
    project, home, _, environment = places
    (home / ".npmrc").write_text(text)
    assert registry(environment, project, home) == PUBLIC


def test_a_file_that_is_no_text_is_named_and_moved_away_it_is_no_matter(places):
    project, home, _, environment = places
    (home / ".npmrc").write_bytes(b"registry=\xff\xfe")
    with pytest.raises(VitloraError, match=r"\.npmrc: not UTF-8; mend that file or move it away"):
        registry(environment, project, home)
    (home / ".npmrc").rename(home / "away")
    assert registry(environment, project, home) == PUBLIC


@pytest.mark.skipif(shutil.which("npm") is None, reason="no npm here: apt-get install npm")
@pytest.mark.parametrize(
    "text",
    [
        f"registry={MIRROR}",
        f'registry = "{MIRROR}"\n',
        f"registry=https://first.test/\nregistry={MIRROR}",
        "registry=${PLACE}npm/",
        f"[section]\nregistry={MIRROR}",
    ],
)
def test_npm_itself_says_the_same(places, text):
    project, home, _, environment = places
    (home / ".npmrc").write_text(text)
    (project / "package.json").write_text("{}")
    environment |= {"PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": str(home), "PLACE": "https://mirror.test/"}
    done = subprocess.run(
        ["npm", "config", "get", "registry"], cwd=project, env=environment, capture_output=True, text=True, check=True
    )
    assert registry(environment, project, home) == done.stdout.strip().rstrip("/") + "/"
