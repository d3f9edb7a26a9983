"""DVC's errors that name neither the cause nor the cure, in our words."""

import logging
import os
from collections.abc import Iterator

from vitlora.core.text import counted
from vitlora.safety.shortage import disk_named
from vitlora.safety.workspace import dead_links, outputs, said, without_git

NAMELESS = "Git user name and email must be configured"  # scmrepo's words


def in_our_words(record: logging.LogRecord) -> bool:
    """Put the cause and the cure in place of what DVC is about to log, where we know them; a filter of logging."""
    error = record.exc_info[1] if record.exc_info else None
    line = None if error is None else _explain(error)
    if line:
        record.exc_info, record.msg, record.args = None, line, ()
    return True


def _explain(error: BaseException) -> str | None:
    from dvc.scm import SCMError

    chain = list(_causes(error))
    if any(isinstance(each, SCMError) and "not a git repository" in str(each) for each in chain):
        return without_git(error)
    if any(str(each) == NAMELESS for each in chain):
        return (
            f"{NAMELESS}, since DVC makes commits of experiments; type `git config user.name NAME` and `git config "
            "user.email ADDRESS`, then the same command again"
        )
    if any(isinstance(each, FileNotFoundError) for each in chain):
        return _links_to_nothing(said(error))
    return next((line for each in chain if isinstance(each, OSError) and (line := disk_named(each))), None)


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error:
        yield error
        error = error.__cause__ or error.__context__


def _links_to_nothing(message: str) -> str | None:
    """Look whether outputs are links into a cache that is not there any more, which ends DVC's every command."""
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    try:
        with Repo() as repo:
            dead = [link for output in outputs(repo) for link in dead_links(output.path)]
    except (DvcException, OSError):
        return None
    if not dead:
        return None
    return (
        f"{message}; {counted(len(dead), 'output is a link', 'outputs are links')} to nothing, such as {dead[0]} -> "
        f"{os.readlink(dead[0])}. If DVC's cache has moved, say where it is now: `dvc cache dir --local FOLDER`; then "
        "`vitlora recover && dvc repro`"
    )
