"""Train stage: fit LoRA adapters with the Trainer; keep the epoch that is best on val."""

import importlib

from vitlora.entry import guarded, run, stage_arguments
from vitlora.sections.train import TrainStage


def main() -> None:
    """Check the parameters, then do the stage's work."""
    params, places = stage_arguments(
        TrainStage,
        __doc__,
        inputs=("base", "train-images", "val", "labels"),
        outputs=("adapter",),
        records=("metrics", "plots"),
    )
    # By name, as the guard: it can only refuse, so no result depends on that file.
    reload = importlib.import_module("vitlora.reload")
    with guarded("train", places) as paths, reload.reloading(paths["base"], paths["adapter"], paths["val"]) as check:
        from vitlora.train import train  # after the check: a bad parameter is refused before slow imports

        finished = train(params.augment, params.lora, params.train, **paths)
        check(finished.model, finished.normalisation)
        finished.checkpoints.remove()


if __name__ == "__main__":
    run(main)
