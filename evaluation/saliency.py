"""Which parts of an image speak for a class: Grad-CAM.

Selvaraju et al., "Grad-CAM: Visual Explanations from Deep Networks via Gradient-Based Localization", ICCV 2017.
"""

import torch
import torch.nn.functional as F
from torch import nn

from models.network import Network


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
    if outputs.shape[1] != model.head.num_classes:
        outputs = model.head.probabilities(outputs).log()
    (maps,) = found  # (B, C, h, w)
    columns = torch.as_tensor(classes, device=outputs.device).clone()[:, None]  # inference mode's own cannot be used
    score = outputs.gather(1, columns).sum()
    (gradients,) = torch.autograd.grad(score, maps)
    weights = gradients.mean(dim=(2, 3), keepdim=True)  # equation 1: (B, C, 1, 1)
    return (weights * maps).sum(1).relu().detach()  # equation 2


def last_feature_maps(network):
    """The module whose outputs are the last feature maps before pooling.

    This is the last part of the network that has a convolution: `layer4` of a ResNet. Of layers in sequence that end
    with pooling, as AlexNet's and Levi and Hassner's, it is the layer before, the last ReLU.
    """
    parts = [part for part in network.children() if any(isinstance(module, nn.Conv2d) for module in part.modules())]
    last = parts[-1]
    if isinstance(last, Network):  # the backbone of a comparison
        return last_feature_maps(last)
    return last[-2] if isinstance(last, nn.Sequential) and isinstance(last[-1], nn.MaxPool2d) else last


def upscale(maps, size):
    """Maps (B, h, w) -> (B, size, size), bilinear, each map scaled to [0, 1] before; a map of one value becomes 0."""
    maps = maps - maps.amin(dim=(1, 2), keepdim=True)
    maps = maps / maps.amax(dim=(1, 2), keepdim=True).clamp_min(torch.finfo(maps.dtype).tiny)
    return F.interpolate(maps[:, None], size=(size, size), mode="bilinear", align_corners=False)[:, 0]
