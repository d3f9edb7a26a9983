"""The last look at a new adapter: a fresh process loads it from disk and must give the trained model's logits.

It decides whether an adapter leaves the train stage, never what it holds. The process starts with the stage, since
imports take most of its time, and waits for the adapter at a low priority.
"""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vitlora.core.entry import importing
from vitlora.core.errors import VitloraError
from vitlora.processes.launch import own_place

if TYPE_CHECKING:  # torch takes seconds
    import numpy as np
    from numpy.typing import NDArray

    from vitlora.model.base import Normalisation
    from vitlora.storage.squares import Squares

IMAGES = 8
# Of the largest logit. Merging rounds; a lost or swapped weight moves logits by far more.
ROUNDING = 1e-4
# A model that makes much of rounding is allowed as much: so many times what float32 itself moves its logits.
AMPLIFIED = 10
Check = Callable[[Any, "Normalisation"], None]


@contextmanager
def reloading(base: Path, adapter: Path, val: Path) -> Iterator[Check]:
    """Start the process, which waits for its turn.

    Args:
        base: Base model folder.
        adapter: Where the model will be saved.
        val: Validation squares, of which a few are scored.

    Yields:
        A function of the trained model and its normalisation that raises ``VitloraError`` if the folder can't be loaded
        or its logits differ by more than rounding, both in float32 on the CPU; where that is much for this model, it is
        measured in float64. The model is no good for training afterwards. In all but the first of several processes
        there is nothing to check, and nothing is started.
    """
    if (place := own_place()) and place.number:
        yield lambda model, normalisation: None
        return
    command = [sys.executable, "-m", "vitlora.safety.reload", *map(str, (base, adapter, val))]
    pipe = subprocess.PIPE
    env = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True, env=env) as child:
        try:
            yield lambda model, normalisation: _check(child, model, normalisation, val)
        finally:
            child.kill()


def _check(child: subprocess.Popen[str], model: Any, normalisation: "Normalisation", val: Path) -> None:
    import numpy as np

    assert child.stdin
    try:
        child.stdin.write("now\n")
        child.stdin.flush()
        kept = logits(plain(model), normalisation, sample(val))
        out, err = child.communicate()
    except BrokenPipeError:  # it has died before its turn
        out, err = child.communicate()
    if child.returncode:
        lines = [line for line in err.splitlines() if line.strip()]
        reason = lines[-1].removeprefix("error: ") if lines else f"exit code {child.returncode}"
        raise VitloraError(f"the saved model cannot be loaded again: {reason}; nothing is kept but the checkpoints")
    loaded = np.array(json.loads(out.splitlines()[-1]), np.float32)
    largest = float(np.abs(kept).max())
    difference = float(np.abs(kept - loaded).max()) if kept.shape == loaded.shape else float("inf")
    if not difference <= ROUNDING * max(1.0, largest):  # NaN is no agreement either
        rounding = float(np.abs(kept - logits(model.double(), normalisation, sample(val))).max())
        if not difference <= AMPLIFIED * rounding:
            raise VitloraError(
                f"the saved model is not the trained one: a logit differs by {difference:.2e}; the rule: at most "
                f"{ROUNDING:.0e} of the largest, {largest:.2f}, or {AMPLIFIED} times what float32 rounds, "
                f"{rounding:.2e}; nothing is kept but the checkpoints"
            )
    print(f"the saved model was loaded in a fresh process and gives the same logits ({len(kept)} images)")


def plain(model: Any) -> Any:
    """Return a model, moved to the CPU, with its own passes again instead of fused, compiled or wrapped ones."""
    from vitlora.model.mixture import is_mixture

    # The others stand in instances' attributes; so does X-LoRA's own way through its layers.
    for part in [model] if is_mixture(model) else model.modules():
        part.__dict__.pop("forward", None)
        part._compiled_call_impl = None
    return model.cpu().float().eval()


def sample(val: Path) -> "Squares":
    """Return a few squares, evenly spaced: neighbours are often of one class."""
    import numpy as np

    from vitlora.storage.squares import load_split

    squares = load_split(val)
    count = len(squares.paths)
    rows = np.unique(np.linspace(0, count - 1, min(IMAGES, count)).round().astype(int))
    return squares.pick(rows.tolist())


def logits(model: Any, normalisation: "Normalisation", squares: "Squares") -> "NDArray[np.floating[Any]]":
    """Return a classifier's logits on the CPU, (N, C), in the precision of its weights."""
    import torch

    kind = next(weight.dtype for weight in model.parameters() if weight.is_floating_point())  # a packed one is not
    pixels = normalisation(torch.from_numpy(squares.images)).to(kind)
    with torch.inference_mode():
        scored: NDArray[np.floating[Any]] = model(pixel_values=pixels).logits.numpy()
    return scored


def main() -> None:
    """Wait for a line, then print the logits of an adapter's folder, as JSON on the last line."""
    from vitlora.safety.guard import leave_with_parent

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the stage too, which ends this process
    leave_with_parent()
    os.nice(5)  # training goes first; on a busy machine 19 would starve it, and train waits for it
    base, adapter, val = map(Path, sys.argv[1:])
    with importing():
        from vitlora.model.adapters import load_adapter
        from vitlora.model.layer_names import skeleton

        skeleton(base)  # imports all that its kind of model needs
    if not sys.stdin.readline():  # the stage has gone
        return
    model, _, normalisation = load_adapter(base, adapter)
    print(json.dumps(logits(model, normalisation, sample(val)).tolist()), flush=True)
    os._exit(0)  # taking torch apart can last seconds


if __name__ == "__main__":
    from vitlora.core.entry import run

    run(main)
