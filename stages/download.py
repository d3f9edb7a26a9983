"""Download stage: fetch images and base model; the only stage that uses the network."""

from vitlora.core.entry import importing, run, stage_arguments
from vitlora.download.params import DownloadStage
from vitlora.safety.check import check_document
from vitlora.safety.guard import guarded


def main() -> None:
    """Check the parameters, then do the stage's work."""
    params, places = stage_arguments(DownloadStage, __doc__, check_document, outputs=("raw", "base"))
    with guarded("download", places) as paths:
        with importing():
            # After the check: a bad parameter is refused before slow imports.
            from vitlora.download.stage import download

        download(params.data, params.model, **paths)


if __name__ == "__main__":
    run(main)
