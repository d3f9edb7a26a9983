"""The last look at a new adapter: a fresh process loads it from disk and must give the trained model's logits.

Loaded by name, as ``vitlora.guard`` is: it decides whether an adapter leaves the train stage, never what it holds.
"""

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from vitlora.errors import VitloraError
from vitlora.model import Normalisation
from vitlora.tensors import Squares, load_split

IMAGES = 8
# Of the largest logit. Merging rounds: measured 1e-7 to 1e-5; a lost or swapped weight moves logits by far more.
ROUNDING = 1e-4


def check_reload(model: Any, normalisation: Normalisation, base: Path, adapter: Path, val: Path) -> None:
    """Compare the model in memory with what a fresh process makes of its folder, both in float32 on the CPU.

    Args:
        model: As trained; it is moved to the CPU, and is no good for training afterwards.
        normalisation: Of the base model.
        base: Base model folder.
        adapter: What was saved of the model.
        val: Validation squares, of which a few are scored.

    Raises:
        VitloraError: The folder can't be loaded, or logits differ by more than rounding.
    """
    command = [sys.executable, "-m", "vitlora.reload", *map(str, (base, adapter, val))]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as child:
        try:
            kept = logits(_plain(model), normalisation, sample(val))  # meanwhile the child imports torch
            out, err = child.communicate()
        except BaseException:
            child.kill()
            raise
    lines = [line for line in err.splitlines() if line.strip()]
    if child.returncode:
        reason = lines[-1].removeprefix("error: ") if lines else f"exit code {child.returncode}"
        raise VitloraError(f"the saved adapter cannot be loaded again: {reason}; nothing is kept but the checkpoints")
    loaded = np.array(json.loads(out.splitlines()[-1]), np.float32)
    largest = float(np.abs(kept).max())
    difference = float(np.abs(kept - loaded).max()) if kept.shape == loaded.shape else float("inf")
    if not difference <= ROUNDING * max(1.0, largest):  # NaN is no agreement either
        raise VitloraError(
            f"the saved adapter is not the trained one: a logit differs by {difference:.2e}; the rule: at most "
            f"{ROUNDING:.0e} of the largest, {largest:.2f}; nothing is kept but the checkpoints"
        )
    print(f"reloaded in a fresh process: largest logit difference {difference:.1e} on {len(kept)} images")


def _plain(model: Any) -> Any:
    """Take the fused or compiled passes and accelerate's wrapper off, which stand in the modules' own attributes."""
    for part in model.modules():
        part.__dict__.pop("forward", None)
        part._compiled_call_impl = None
    return model.cpu().float().eval()


def sample(val: Path) -> Squares:
    """Return a few squares, evenly spaced: neighbours are often of one class."""
    squares = load_split(val)
    count = len(squares.paths)
    rows = np.unique(np.linspace(0, count - 1, min(IMAGES, count)).round().astype(int))
    return Squares(squares.images[rows], squares.labels[rows], [squares.paths[row] for row in rows])


@torch.inference_mode()
def logits(model: Any, normalisation: Normalisation, squares: Squares) -> NDArray[np.float32]:
    """Return a classifier's logits on the CPU, float32 (N, C)."""
    scored: NDArray[np.float32] = model(pixel_values=normalisation(torch.from_numpy(squares.images))).logits.numpy()
    return scored


def main() -> None:
    """Print the logits of an adapter's folder, as JSON on the last line."""
    from vitlora.adapters import load_adapter
    from vitlora.guard import leave_with_parent

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the stage too, which ends this process
    leave_with_parent()
    base, adapter, val = map(Path, sys.argv[1:])
    model, _, normalisation = load_adapter(base, adapter)
    print(json.dumps(logits(model, normalisation, sample(val)).tolist()))


if __name__ == "__main__":
    from vitlora.entry import run

    run(main)
