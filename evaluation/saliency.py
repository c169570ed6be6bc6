"""Saliency maps by Grad-CAM: the regions of an image that speak for a class.

Selvaraju et al., "Grad-CAM: Visual Explanations from Deep Networks via Gradient-Based Localization", ICCV 2017.
"""

import torch
from torch import nn


@torch.inference_mode(False)  # gradients are needed, whatever the caller has switched off
def grad_cam(model, images, classes):
    """The last feature maps, weighted by how much each of them raises the score of a class (equations 1 and 2).

    The score is the class's logit where the head has one output per class, and its log probability elsewhere (CORAL,
    CORN). The model is left in evaluation mode; neither its gradients nor its hooks change.

    Args:
        model: a Network.
        images: normalised, float (B, 3, S, S).
        classes: int (B,), a class for each image.

    Returns:
        float (B, h, w), 0 or more, of the size of the feature maps; zero where nothing speaks for the class.
    """
    model.eval()
    found = []
    with last_feature_maps(model).register_forward_hook(lambda module, inputs, output: found.append(output)):
        outputs = model(images.clone().requires_grad_())  # so that the maps have a gradient if no parameter needs one
    probabilities = model.fc.probabilities(outputs)  # (B, K)
    scores = outputs if outputs.shape == probabilities.shape else probabilities.log()
    (maps,) = found  # (B, C, h, w)
    columns = torch.as_tensor(classes, device=outputs.device).clone()[:, None]  # inference mode's own cannot be used
    score = scores.gather(1, columns).sum()
    (gradients,) = torch.autograd.grad(score, maps)
    weights = gradients.mean(dim=(2, 3), keepdim=True)  # equation 1: (B, C, 1, 1)
    return (weights * maps).sum(1).relu().detach()  # equation 2


def has_feature_maps(model):
    """Whether `grad_cam` works for a Network: its last child with a convolution is called and gives (B, C, h, w)."""
    try:
        size, device = model.image_size, next(model.parameters()).device
        return grad_cam(model, torch.zeros(1, 3, size, size, device=device), [0]).dim() == 3
    except (ValueError, IndexError, RuntimeError):
        return False


def last_feature_maps(network):
    """The network's last child with a convolution, whose outputs are pooled: `layer4` of a ResNet."""
    *_, last = (child for child in network.children() if any(isinstance(m, nn.Conv2d) for m in child.modules()))
    return last


def min_max(maps):
    """Maps (B, h, w), each scaled linearly so that it spans 0 to 1; a constant map becomes 0."""
    maps = maps - maps.amin(dim=(1, 2), keepdim=True)
    return maps / maps.amax(dim=(1, 2), keepdim=True).clamp_min(torch.finfo(maps.dtype).tiny)
