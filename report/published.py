"""Published results on Adience, and how its label files are recognised: figures of the benchmark mean nothing else."""

CLASSES = ("0-2", "4-6", "8-13", "15-20", "25-32", "38-43", "48-53", "60+")
# Distinct faces of each fold, by label policy, counted in the published label files.
FACES_PER_FOLD = {
    "strict": (4305, 3092, 3285, 2963, 3676),
    "fixed": (4378, 3111, 3285, 3068, 3681),
    "nearest": (4432, 3693, 3343, 3400, 3754),
}
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


def is_adience(faces):
    """Whether Faces are those of Adience's label files: its classes, and the published number of faces in each fold.

    Args:
        faces: Faces of one or more whole folds.
    """
    if tuple(faces.class_names) != CLASSES or not len(faces):
        return False
    counts = faces.table.fold.value_counts()
    return any(
        all(fold in range(len(published)) and count == published[fold] for fold, count in counts.items())
        for published in FACES_PER_FOLD.values()
    )


def published_results(faces):
    """The rows of RESULTS where the faces are Adience's, otherwise none."""
    return RESULTS if is_adience(faces) else []
