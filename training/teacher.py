"""Learning from trained networks: their probabilities are targets beside the labels.

Hinton, Vinyals and Dean, "Distilling the Knowledge in a Neural Network", 2015; a student of the teacher's own size is
born again (Furlanello et al., "Born-Again Neural Networks", ICML 2018). The teacher sees the same augmented images as
the student (Beyer et al., "Knowledge Distillation: A Good Teacher is Patient and Consistent", CVPR 2022).
"""

from pathlib import Path

import torch

from augment.geometry import resize
from evaluation.leaks import hashed_name, people_seen
from models.checkpoint import load_model
from utils.errors import UserError


class Teacher:
    """The mean of the probabilities of trained networks for images and their mirror images.

    Args:
        models: Networks in evaluation mode, with the same classes.
        runtime: the Runtime to run on.
    """

    def __init__(self, models, runtime):
        self.models = list(map(runtime.place, models))
        self.runtime = runtime

    @torch.no_grad()
    def __call__(self, images):
        """Normalised images (B, 3, S, S) -> probabilities (B, K)."""
        views = []
        for model in self.models:
            for view in (images, images.flip(-1)):
                with self.runtime.autocast():
                    views.append(model.probabilities(resize(view, model.image_size)))
        return torch.stack(views).mean(0)


def teacher_models(runs, fold, faces):
    """The models of finished runs that held the same fold out, as {file: Network}.

    Args:
        runs: run directories, or model files.
        fold: the held-out fold.
        faces: the Faces to train on; the teachers have seen no other people.

    Raises:
        UserError: a run has no model of this fold, or one of other classes, or one that has seen other people.
    """
    models = {}
    for run in runs:
        path = Path(run) if Path(run).suffix == ".pt" else Path(run) / f"fold_{fold}.pt"
        model = load_model(path)
        if model.classes.names != faces.classes.names:
            raise UserError(f"--teacher: '{path}' knows the classes {', '.join(model.classes.names)}")
        if strangers := people_seen(model.record) - {*faces.people, *map(hashed_name, faces.people)}:
            raise UserError(
                f"--teacher: '{path}' was trained on {len(strangers):,} people who are not in the training folds here,"
                f" such as {min(strangers)}; its answers would tell about those who are held out"
            )
        models[str(path)] = model
    return models
