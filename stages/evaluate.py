"""Evaluate stage: score the adapter on the test split, which no earlier stage looks at."""

from vitlora.core.entry import importing, run, stage_arguments
from vitlora.evaluate.params import EvaluateStage
from vitlora.processes.launch import launched
from vitlora.safety.check import check_document
from vitlora.safety.guard import guarded


def main() -> None:
    """Check the parameters, then do the stage's work."""
    params, places = stage_arguments(
        EvaluateStage,
        __doc__,
        check_document,
        inputs=("base", "adapter", "val", "test", "labels"),
        outputs=("evaluated",),
        records=("out",),
    )
    with guarded("evaluate", places) as paths:
        if launched("evaluate", params.train.num_processes, paths):
            return
        with importing():
            # After the check: a bad parameter is refused before slow imports.
            from vitlora.evaluate.stage import evaluate

        evaluate(params.evaluate, **paths)


if __name__ == "__main__":
    run(main)
