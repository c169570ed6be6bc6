"""Published results on Adience: figures of the benchmark mean nothing beside other data."""

from data.adience import is_adience

# System, top-1 and one-off in percent (None: not given), what it starts from.
RESULTS = [
    ("Eidinger et al. 2014", 45.1, 79.5, "no network"),
    ("Levi and Hassner 2015, one crop", 49.5, 84.6, "random weights"),
    ("Levi and Hassner 2015, ten crops", 50.7, 84.7, "random weights"),
    ("the original of this system, mean over epochs and folds", 55.80, None, "random weights"),
    ("the original of this system, its fold-0 model alone", 62.06, 80.35, "random weights"),
    ("DEX 2016", 64.0, 96.6, "ImageNet and IMDB-WIKI"),
    ("SORD 2019", 59.6, None, "pretrained weights"),
    ("MWR 2022", 62.6, None, "pretrained weights"),
    ("MiVOLO 2023", 68.7, None, "a larger data set"),
]


def published_results(faces):
    """The rows of RESULTS where the faces are Adience's, otherwise none."""
    return RESULTS if is_adience(faces) else []
