"""Networks: normalised images (B, 3, S, S) in, logits (B, classes) out."""

from models.resnet import resnet18, resnet34, resnet50, resnet101, resnet152

MODELS = {
    "resnet18": resnet18,
    "resnet34": resnet34,
    "resnet50": resnet50,
    "resnet101": resnet101,
    "resnet152": resnet152,
}

__all__ = ["MODELS", *MODELS]
