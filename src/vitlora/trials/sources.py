"""Whether all runs of a search or a sweep were of the same pictures and the same base."""

from collections.abc import Collection, Iterator

from vitlora.compare.revisions import experiments, object_ids

SOURCE = "source.yaml"
CHOSEN = ("data.", "model.")  # keys by which runs are of others on purpose


def other_sources(names: Collection[str], keys: Collection[str]) -> Iterator[str]:
    """Say so where pictures or base were changed while runs were at work: their scores are of different things then.

    Args:
        names: Of the experiments.
        keys: Dotted keys in which they differ.
    """
    found = [(ref.rpartition("/")[2], commit) for ref, commit in experiments()]
    commits = [commit for name, commit in found if name in names]
    if len({seen for (seen,) in object_ids(commits, (SOURCE,))}) > 1 and not any(
        key.startswith(CHOSEN) for key in keys
    ):
        yield (
            f"what lies at data.path or model.path was changed while they ran ({SOURCE} differs), so scores can't be "
            "compared; --name another runs all of them on what is there now"
        )
