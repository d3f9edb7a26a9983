"""Evaluate stage: score the adapter on the test split, which no earlier stage looks at."""

from vitlora.entry import run, stage_arguments
from vitlora.sections.evaluate import EvaluateStage


def main() -> None:
    """Check the parameters, then do the stage's work."""
    params, paths = stage_arguments(EvaluateStage, __doc__, ("base", "adapter", "test", "labels", "out"))
    from vitlora.evaluate import evaluate  # after the check: a bad parameter is refused before slow imports

    evaluate(params.evaluate, **paths)


if __name__ == "__main__":
    run(main)
