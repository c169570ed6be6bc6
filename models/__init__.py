"""Networks: normalised images (B, 3, S, S) in, outputs (B, D) out: logits of the classes, or what else a loss wants."""

from models.alexnet import alexnet, levi_hassner
from models.resnet import resnet18, resnet34, resnet50, resnet101, resnet152

MODELS = {
    "resnet18": resnet18,
    "resnet34": resnet34,
    "resnet50": resnet50,
    "resnet101": resnet101,
    "resnet152": resnet152,
    "levi_hassner": levi_hassner,
    "alexnet": alexnet,
}

__all__ = ["MODELS", *MODELS]
