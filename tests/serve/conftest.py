"""What the tests of the service share."""

import json

import pytest
from foreign import exported
from served import serving

from vitlora.storage.manifest import write_manifest


@pytest.fixture(scope="session")
def folders(tmp_path_factory):
    """Two exported folders of other classes; the second keeps a threshold of prediction sets."""
    first, second = (exported(tmp_path_factory.mktemp(name)) for name in ("first", "second"))
    facts = json.loads((second / "vitlora.json").read_text())
    facts |= {"class_names": ["ant", "bee"], "calibration": {"threshold": 0.4}}
    (second / "vitlora.json").write_text(json.dumps(facts))
    write_manifest(second)
    return first, second


@pytest.fixture(scope="session")
def server(folders):
    """A server of both, with the limits that it has by itself."""
    first, second = folders
    with serving(f"first={first}", f"second={second}", "--decoders", "2") as found:
        yield found
