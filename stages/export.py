"""Export stage: merge the adapter, write ONNX, and check both against the trained model."""

from vitlora.entry import guarded, run, stage_arguments
from vitlora.sections.export import ExportStage


def main() -> None:
    """Check the parameters, then do the stage's work."""
    params, places = stage_arguments(
        ExportStage, __doc__, inputs=("base", "adapter", "test", "predictions"), outputs=("model",), records=("report",)
    )
    with guarded("export", places) as paths:
        from vitlora.export import export  # after the check: a bad parameter is refused before slow imports

        export(params.export, params.evaluate.precision, **paths)


if __name__ == "__main__":
    run(main)
