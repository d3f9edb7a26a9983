"""Preprocess stage: check and split the images, report on them; store validation and test as ready tensors."""

from vitlora.core.entry import importing, run, stage_arguments
from vitlora.preprocess.params import PreprocessStage
from vitlora.safety.check import check_document
from vitlora.safety.guard import WORK, guarded
from vitlora.safety.same_test import tell_same_test


def main() -> None:
    """Check the parameters, then do the stage's work."""
    params, places = stage_arguments(
        PreprocessStage,
        __doc__,
        check_document,
        inputs=("raw", "own-image"),
        outputs=("train", "val", "test", "labels", "page"),
        records=("report",),
    )
    with guarded("preprocess", places) as paths:
        with importing():
            # After the check: a bad parameter is refused before slow imports.
            from vitlora.preprocess.stage import preprocess

        preprocess(params.ingest, params.image, params.split, **paths, keep=WORK / "preprocess/kept")
        tell_same_test(paths["test"] / "index.csv", WORK / "test_pictures.txt")


if __name__ == "__main__":
    run(main)
