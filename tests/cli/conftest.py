"""What the tests of verbs share."""

import pytest
from foreign import exported


@pytest.fixture(scope="session")
def model(tmp_path_factory):
    """An exported folder with a tiny classifier."""
    return exported(tmp_path_factory.mktemp("export"))
