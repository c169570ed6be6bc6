"""MobileNetV3-Small (Howard et al., "Searching for MobileNetV3", ICCV 2019, Table 2): torchvision's, with our heads."""

from typing import ClassVar

from models.network import Network


class MobileNet(Network):
    """Torchvision's feature maps under our last layer; the paper's hidden layer before it, of 1,024 units, is left out.

    Args:
        make_head: a function from the number of features to the last layer.
        width: the number of channels, relative to the paper's.
    """

    pretrained_names: ClassVar[dict] = {"features.": "backbone."}

    def __init__(self, make_head, *, width=1.0):
        super().__init__()
        # Importing torchvision takes as long as importing torch, and few scripts need it.
        from torchvision.models import mobilenet_v3_small

        self.backbone = mobilenet_v3_small(weights=None, width_mult=width).features
        self.fc = make_head(self.backbone[-1].out_channels)

    def features(self, images):
        return self.backbone(images).mean(dim=(2, 3))  # (B, 576) at width 1
