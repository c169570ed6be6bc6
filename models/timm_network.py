"""Any network of the package timm under our last layer; the package is an extra (requirements-timm.txt)."""

import re
from typing import ClassVar

from models.network import Network
from utils.cli import require_package
from utils.errors import UserError
from utils.serialization import first_line

PREFIX = "timm:"
NAME = re.compile(r"\w+(\.\w+)?", re.ASCII)  # a network, and the name of its weights


class TimmNetwork(Network):
    """A timm network's pooled features under our last layer. Its own mean and std normalise the images.

    Args:
        name: timm's name, such as "convnext_nano".
        make_head: a function from the number of features to the last layer.

    Raises:
        UserError: timm is not installed or has no such network.
    """

    pretrained_names: ClassVar[dict] = {"": "backbone."}

    def __init__(self, name, make_head):
        super().__init__()
        self.backbone = create_backbone(name)
        settings = self.backbone.pretrained_cfg
        self.mean, self.std = settings["mean"], settings["std"]
        self.fc = make_head(getattr(self.backbone, "head_hidden_size", self.backbone.num_features))

    def features(self, images):
        return self.backbone(images)  # (B, F)


def create_backbone(name, pretrained=False):
    """A timm network without its last layer. Raises UserError."""
    require_package("timm", f"--model {PREFIX}{name}", "requirements-timm.txt")
    import timm

    # Its other names are of files and of models on the web, which a model file must not fetch.
    if not (timm.is_model(name) and NAME.fullmatch(name)):
        raise UserError(f"--model {PREFIX}{name}: timm {timm.__version__} has no such network; timm.list_models() has")
    try:
        return timm.create_model(name, pretrained=pretrained, num_classes=0)
    except RuntimeError as error:  # it has no such weights
        raise UserError(f"--model {PREFIX}{name}: {first_line(error)}") from None
