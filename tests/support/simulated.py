"""Classifiers whose true scores are known, to draw test results from."""

import numpy as np


def classifier(random, classes, accuracy):
    """Return row shares (C, C) of a classifier whose classes differ, and its true macro scores on equal classes."""
    own = random.beta(accuracy * 20, (1 - accuracy) * 20, classes)
    own = np.clip(own + accuracy - own.mean(), 0.02, 0.9999)
    shares = np.diag(own)
    for row in range(classes):
        others = np.arange(classes) != row
        shares[row, others] = random.dirichlet(np.full(classes - 1, 0.3)) * (1 - own[row])
    guesses = shares.sum(axis=0)
    true = {
        "balanced_accuracy": own.mean(),
        "macro_precision": (own / guesses).mean(),
        "macro_f1": (2 * own / (1 + guesses)).mean(),
    }
    return shares, true


def draw(random, shares, images):
    """Return the confusion matrix of a test with so many images of each class."""
    return np.array([random.multinomial(images, row) for row in shares])


def scored(random, images, classes, sharpness=2.0, temperature=1.0):
    """Return labels, and logits that are calibrated once they are divided by ``temperature``."""
    logits = random.normal(0, sharpness, (images, classes))
    shares = np.exp(logits - logits.max(axis=1, keepdims=True))
    shares /= shares.sum(axis=1, keepdims=True)
    labels = (shares.cumsum(axis=1) > random.random((images, 1))).argmax(axis=1)
    return labels.astype(np.int64), (logits * temperature).astype(np.float32)
