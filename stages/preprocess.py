"""Preprocess stage: check and split the images, report on them; store validation and test as ready tensors."""

from vitlora.entry import guarded, run, stage_arguments
from vitlora.sections.image import PreprocessStage


def main() -> None:
    """Check the parameters, then do the stage's work."""
    params, places = stage_arguments(
        PreprocessStage,
        __doc__,
        inputs=("raw",),
        outputs=("train", "val", "test", "labels", "page"),
        records=("report",),
    )
    with guarded("preprocess", places) as paths:
        from vitlora.preprocess import preprocess  # after the check: a bad parameter is refused before slow imports

        preprocess(params.data, params.image, params.split, **paths)


if __name__ == "__main__":
    run(main)
