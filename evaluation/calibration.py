"""Whether probabilities can be believed: of all answers given with 80 %, are 80 % right?"""

import numpy as np

BINS = 15


def expected_calibration_error(labels, predicted, probabilities, bins=BINS):
    """The mean distance between confidence and accuracy, over bins of equally many faces.

    Guo, Pleiss, Sun and Weinberger, "On Calibration of Modern Neural Networks", ICML 2017, equation 3; with bins of
    equal mass (Nixon et al., "Measuring Calibration in Deep Learning", 2019), which leave none empty.

    Args:
        labels: int (N,), true classes.
        predicted: int (N,), predicted classes.
        probabilities: float (N, K); the confidence is that of the predicted class.

    Returns:
        A float from 0 to 1.
    """
    labels, predicted = np.asarray(labels), np.asarray(predicted)
    confidence = np.asarray(probabilities, np.float64)[np.arange(len(labels)), predicted]
    order = np.argsort(confidence, kind="stable")
    surplus = confidence[order] - (labels == predicted)[order]
    return float(sum(abs(part.sum()) for part in np.array_split(surplus, bins)) / len(labels))
