"""How a run is going: a file that anyone may follow, and the trackers that the Trainer knows."""

import json
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import TrainerCallback
from transformers.integrations import integration_utils

from vitlora.core.errors import VitloraError
from vitlora.core.files import significant

LIVE = Path(".work/train.jsonl")
# Trackers write beside the pipeline, not into the folder that Git and DVC look at, unless their user has said where.
PLACES = {
    "TENSORBOARD_LOGGING_DIR": ".work/tensorboard",
    "WANDB_DIR": ".work",
    "MLFLOW_TRACKING_URI": "sqlite:///.work/mlflow.db",
    "TRACKIO_DIR": ".work/trackio",
}


def prepare(trackers: Sequence[str]) -> None:
    """Find the trackers that `train.report_to` names, and tell them where to write.

    Raises:
        VitloraError: One is not installed.
    """
    for name in trackers:
        if not getattr(integration_utils, f"is_{name}_available")():
            raise VitloraError(
                f"train.report_to: got {name}, which is not installed; the rule: installed beside vitlora: "
                f"`.venv/bin/uv pip install --python .venv {name}`"
            )
    if trackers:
        LIVE.parent.mkdir(exist_ok=True)
        for variable, place in PLACES.items():
            os.environ.setdefault(variable, place)
        if not os.environ.get("WANDB_API_KEY"):  # it would ask for one, or fail where nobody can answer
            os.environ.setdefault("WANDB_MODE", "offline")


class Live(TrainerCallback):  # type: ignore[misc]  # transformers has no type information
    """Appends a line of JSON for each entry of the Trainer's log, with images/s and the seconds left."""

    def __init__(self, images: int) -> None:
        self.images = images  # of an optimiser step

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Begin the file anew, with what a resumed run had logged."""
        self.began, self.first = time.monotonic(), state.global_step
        LIVE.parent.mkdir(exist_ok=True)
        lines = [_line(entry, state.max_steps) for entry in state.log_history]
        LIVE.write_text("".join(lines), encoding="utf-8")

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        """Append what was logged last."""
        done, seconds = state.global_step - self.first, time.monotonic() - self.began
        pace = {}
        if done and seconds:
            left = (state.max_steps - state.global_step) * seconds / done
            pace = {"images_per_s": significant(done * self.images / seconds, 3), "seconds_left": round(left)}
        with LIVE.open("a", encoding="utf-8") as file:
            file.write(_line({**state.log_history[-1], **pace}, state.max_steps))


def _line(entry: dict[str, Any], steps: int) -> str:
    return json.dumps({"step": entry["step"], "steps": steps, **{k: v for k, v in entry.items() if k != "step"}}) + "\n"
