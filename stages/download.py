"""Download stage: fetch images and base model; the only stage that uses the network."""

from vitlora.entry import guarded, run, stage_arguments
from vitlora.sections.data import DownloadStage


def main() -> None:
    """Check the parameters, then do the stage's work."""
    params, places = stage_arguments(DownloadStage, __doc__, outputs=("raw", "base"))
    with guarded("download", places) as paths:
        from vitlora.download import download  # after the check: a bad parameter is refused before slow imports

        download(params.data, params.model, **paths)


if __name__ == "__main__":
    run(main)
