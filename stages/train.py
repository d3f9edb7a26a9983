"""Train stage: fit LoRA adapters with the Trainer; keep the epoch that is best on val."""

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
    with guarded("train", places) as paths:
        from vitlora.train import train  # after the check: a bad parameter is refused before slow imports

        train(params.augment, params.lora, params.train, **paths)


if __name__ == "__main__":
    run(main)
