"""Evaluate stage: score the adapter on the test split, which no earlier stage looks at."""

from vitlora.entry import guarded, run, stage_arguments
from vitlora.sections.evaluate import EvaluateStage


def main() -> None:
    """Check the parameters, then do the stage's work."""
    params, places = stage_arguments(
        EvaluateStage, __doc__, inputs=("base", "adapter", "test", "labels"), records=("out",)
    )
    with guarded("evaluate", places) as paths:
        from vitlora.evaluate import evaluate  # after the check: a bad parameter is refused before slow imports

        evaluate(params.evaluate, **paths)


if __name__ == "__main__":
    run(main)
