"""What must not matter doesn't: hash seed, loader workers, the folder."""

import pytest
import tiny
from faults.harness import copy_without, hashes, lock, repro

SEEDS, WORKERS = ("0", "1", "4294967295"), (0, 2, 4)


@pytest.mark.survives("F57", "PYTHONHASHSEED of 3 values, 0, 2 and 4 workers, a folder with spaces: same bytes")
@pytest.mark.faults
@pytest.mark.parametrize("number", range(3))
def test_hash_seed_workers_and_folder_change_no_byte(finished_run, scratch, number):
    root = copy_without(finished_run, scratch / f"a folder {number} é", "preprocess")
    tiny.set_params(root / "params.yaml", {"train.dataloader_num_workers": WORKERS[number]})
    repro(root, env={"PYTHONHASHSEED": SEEDS[number]})
    stages = ("preprocess", "train", "evaluate", "export")
    found, wanted = (
        {name: digest for name, digest in hashes(top, stages).items() if "/" in name} for top in (root, finished_run)
    )
    assert found == wanted
    assert list(lock(root)) == list(lock(finished_run))
