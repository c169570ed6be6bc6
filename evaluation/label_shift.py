"""Label shift: the ages of faces, as in a school, are distributed differently from those of the training faces.

Saerens, Latinne and Decaestecker, "Adjusting the Outputs of a Classifier to New a Priori Probabilities", Neural
Computation, 2002: the distribution is estimated from the answers themselves, by expectation maximisation, and each
answer is weighted by how much more frequent a class is than usual. No label is needed.
"""

import numpy as np

from utils.errors import UserError

ROUNDS = 2  # more of them fit the noise (docs/RESULTS.md, "One population")
USUAL_FACES = 10  # as many faces of the usual distribution are added, so that a few faces change little
LEAST_FREQUENCY = 1e-6  # replaces that of a class without faces, which would divide by 0


def usual_answer(probabilities, labels, frequencies):
    """The mean class probabilities of faces that are distributed like the training faces.

    They replace the classes' frequencies, since a model gives probability to neighbouring classes, too.

    Args:
        probabilities: float (N, K), of faces that the model did not learn from.
        labels: int (N,), of these.
        frequencies: float (K,), of the classes among the training faces, in any unit.

    Returns:
        float64 (K,), whose sum is 1.
    """
    frequencies = np.maximum(frequencies, LEAST_FREQUENCY)  # a class may be missing in the training
    weights = frequencies / np.bincount(labels, minlength=len(frequencies)).clip(1)
    mean = np.average(np.asarray(probabilities, np.float64), axis=0, weights=weights[labels])
    return mean / mean.sum()


def recorded_answer(path, record):
    """The usual answer in the record of a model file, an array (K,). Raises UserError for a file without one."""
    if "usual_answer" not in record:
        reason = "it is of an earlier version, or held no face out; one of a fold, or with --val-fraction, has it"
        raise UserError(f"--adapt: '{path}' does not record its usual answer: {reason}")
    return np.array(record["usual_answer"])


def class_weights(probabilities, usual):
    """How much more frequent each class is among faces than among a model's training faces.

    Args:
        probabilities: float (N, K), the answers to the faces.
        usual: float (K,), of `usual_answer`.

    Returns:
        float64 (K,), for `weighted`.
    """
    usual = np.clip(usual, LEAST_FREQUENCY, None)
    weights = np.ones(len(usual))
    for _ in range(ROUNDS):
        answers = weighted(probabilities, weights)
        frequency = (answers.sum(0) + USUAL_FACES * usual) / (len(answers) + USUAL_FACES)
        weights = frequency / usual
    return weights


def weighted(probabilities, weights):
    """Probabilities (N, K) times the weights of the classes (K,), as probabilities again, float64."""
    products = np.asarray(probabilities, np.float64) * weights
    return products / products.sum(1, keepdims=True)
