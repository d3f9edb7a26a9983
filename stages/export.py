"""Export stage: merge the adapter, write the model's forms, and check each against the trained model."""

from vitlora.core.entry import importing, run, stage_arguments
from vitlora.export.params import ExportStage
from vitlora.safety.check import check_document
from vitlora.safety.guard import guarded
from vitlora.safety.ran import record_latency


def main() -> None:
    """Check the parameters, then do the stage's work."""
    params, places = stage_arguments(
        ExportStage,
        __doc__,
        check_document,
        inputs=("base", "adapter", "test", "predictions", "calibration"),
        outputs=("model",),
        records=("report",),
    )
    with guarded("export", places) as paths:
        with importing():
            # After the check: a bad parameter is refused before slow imports.
            from vitlora.export.stage import export

        latencies = export(params.export, **paths)
    record_latency(latencies)


if __name__ == "__main__":
    run(main)
