"""How much of the best trial's score is luck: it was picked because it scored best, on the pictures that picked it."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

STEPS = 10  # of the grid, for each 1 / sqrt(pictures)
ROUNDS = 20  # of the fit: with 500 a dozen scores become two or three spikes, and leads are told less well
REACH = 5.0  # standard deviations on either side of the scores


def without_luck(scores: ArrayLike, pictures: int) -> NDArray[np.float64]:
    """Return each trial's expected score on fresh pictures of the same kind, given the scores of all trials.

    A score is a share of right answers, so chance moves it as a binomial law says. What the trials are really worth is
    taken as drawn from one distribution, whose form is free and which is fitted to the scores. Bayes' rule then gives
    each trial's worth, and being picked for its score changes nothing of it. In simulations of 12 trials it found 70 to
    110 % of the luck of the best (tests/tune/test_luck.py has some); a parametric bootstrap found 60 to 70 %.

    Trials are judged on the same pictures, whose difficulty they share; so chance tells two of them apart less than it
    is taken to do here, and luck is at most this.

    Args:
        scores: (N,), shares, 0 to 1.
        pictures: Of val; for a mean over classes as many as leave as much to chance (``search.worth_pictures``).

    Returns:
        float64 (N,), in the same order.

    Source:
        Efron, Tweedie's formula and selection bias, JASA 106 (2011); Kiefer and Wolfowitz, Annals of Mathematical
        Statistics 27 (1956), fitted by the EM algorithm.
    """
    right = np.rint(np.asarray(scores, np.float64) * pictures)
    reach = REACH * np.sqrt(pictures) / 2
    ends = np.clip([right.min() - reach, right.max() + reach], 0.5, pictures - 0.5) / pictures
    worth = np.linspace(ends[0], ends[1], int(np.ceil(STEPS * np.sqrt(pictures) * np.ptp(ends))) + 2)
    likely = right[:, None] * np.log(worth) + (pictures - right[:, None]) * np.log1p(-worth)
    likely = np.exp(likely - likely.max(axis=1, keepdims=True))
    weights = np.full(len(worth), 1 / len(worth))
    for _ in range(ROUNDS):
        shares = likely * weights
        shares /= shares.sum(axis=1, keepdims=True)
        weights = shares.mean(axis=0)
    found: NDArray[np.float64] = shares @ worth
    return found
