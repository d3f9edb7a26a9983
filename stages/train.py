"""Train stage: fit LoRA adapters with the Trainer; keep the epoch that is best on val."""

from vitlora.core.entry import importing, run, stage_arguments
from vitlora.processes.launch import launched
from vitlora.safety.check import check_document
from vitlora.safety.guard import guarded
from vitlora.safety.reload import reloading
from vitlora.train.params import TrainStage


def main() -> None:
    """Check the parameters, then do the stage's work."""
    params, places = stage_arguments(
        TrainStage,
        __doc__,
        check_document,
        inputs=("base", "train-images", "val", "labels"),
        outputs=("adapter",),
        records=("metrics", "plots"),
    )
    with guarded("train", places) as paths:
        if launched("train", params.train.num_processes, paths, *params.parts):
            return
        with reloading(paths["base"], paths["adapter"], paths["val"]) as check:
            with importing():
                # After the check: a bad parameter is refused before slow imports.
                from vitlora.train.stage import train

            finished = train(params.augment, params.lora, params.train, **paths)
            if finished:
                check(finished.model, finished.normalisation)
                finished.checkpoints.remove()


if __name__ == "__main__":
    run(main)
