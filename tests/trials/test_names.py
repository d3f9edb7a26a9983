"""Names of searches and sweeps."""

import pytest

from vitlora.core.errors import VitloraError
from vitlora.trials.names import refuse_name


@pytest.mark.parametrize("name", ["", "7", "../x", "a b", "a/b", "out", "ü", "-a", "a" * 42, "a\n"])
def test_what_can_be_no_folder_and_no_experiment_is_refused(name):
    with pytest.raises(VitloraError, match=r"--name: got .*; the rule: a letter, then at most 40"):
        refuse_name(name)


@pytest.mark.parametrize("name", ["a", "rates", "R-2_x", "outer", "a" * 41])
def test_other_names_pass(name):
    refuse_name(name)
