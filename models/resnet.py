"""Residual networks with leaky rectifiers (He, Zhang, Ren and Sun, "Deep Residual Learning for
Image Recognition", CVPR 2016, Table 1), at all five depths.

Two details follow the published size of the age system, 12,561,672 parameters for ResNet-18:
every convolution has a bias, and the shortcuts that change the shape are 3x3 convolutions.
`shortcut="1x1"` gives the textbook network instead: 1x1 shortcuts, no bias.
"""

from torch import nn

from models.attention import ATTENTION
from models.head import make_head


class ResNet(nn.Module):
    """block: BasicBlock or Bottleneck; depths: blocks in each of the four stages.

    outputs, shared: of the last layer, see `make_head`. negative_slope: of the leaky rectifier; 0 makes
    it a ReLU. shortcut: "3x3" (the published network) or "1x1" (the textbook's). attention: a name in
    ATTENTION, at the end of each residual branch. zero_init: start the blocks as identities. Raises ValueError.
    """

    def __init__(
        self,
        block,
        depths,
        outputs=8,
        shared=False,
        negative_slope=0.2,
        shortcut="3x3",
        attention="none",
        zero_init=False,
        **_,
    ):
        super().__init__()
        if shortcut not in ("1x1", "3x3"):
            raise ValueError(f"shortcut is {shortcut!r}; it is '3x3' or '1x1'")
        plan = {"slope": negative_slope, "bias": shortcut == "3x3", "attention": attention}
        self.stem = conv_norm(3, 64, kernel=7, stride=2, bias=plan["bias"])
        self.activation = nn.LeakyReLU(negative_slope, inplace=True)
        self.pool = nn.MaxPool2d(3, stride=2, padding=1)
        channels, stages = 64, []
        for width, depth, stride in zip((64, 128, 256, 512), depths, (1, 2, 2, 2), strict=True):
            blocks = []
            for position in range(depth):
                blocks.append(block(channels, width, stride if position == 0 else 1, shortcut, **plan))
                channels = width * block.expansion
            stages.append(nn.Sequential(*blocks))
        self.stages = nn.Sequential(*stages)
        self.head = make_head(channels, outputs, shared)
        self.initialise(negative_slope, zero_init)

    def features(self, images):
        x = self.activation(self.stem(images))  # (B, 64, S/2, S/2)
        x = self.stages(self.pool(x))  # (B, 512 * expansion, S/32, S/32)
        return x.mean(dim=(2, 3))  # (B, 512 * expansion)

    def forward(self, images):
        return self.head(self.features(images))  # (B, outputs)

    def initialise(self, negative_slope, zero_init):
        """Kaiming normal for the leaky slope (He et al., "Delving Deep into Rectifiers", ICCV 2015, eq. 15)."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, a=negative_slope, mode="fan_out", nonlinearity="leaky_relu")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            elif zero_init and isinstance(module, (BasicBlock, Bottleneck)):
                nn.init.zeros_(module.residual[-1][-1].weight)  # Goyal et al., 2017, section 5.1


class BasicBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut (Figure 5, left)."""

    expansion = 1

    def __init__(self, inputs, width, stride, shortcut, slope, bias, attention):
        super().__init__()
        self.residual = nn.Sequential(
            conv_norm(inputs, width, kernel=3, stride=stride, bias=bias),
            nn.LeakyReLU(slope, inplace=True),
            conv_norm(width, width, kernel=3, bias=bias),
        )
        self.shortcut = make_shortcut(inputs, width, stride, shortcut, bias)
        self.attention = ATTENTION[attention](width * self.expansion)
        self.activation = nn.LeakyReLU(slope, inplace=True)

    def forward(self, x):
        return self.activation(self.attention(self.residual(x)) + self.shortcut(x))


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions beside a shortcut (Figure 5, right); the 3x3 one strides, as in torchvision."""

    expansion = 4

    def __init__(self, inputs, width, stride, shortcut, slope, bias, attention):
        super().__init__()
        self.residual = nn.Sequential(
            conv_norm(inputs, width, kernel=1, bias=bias),
            nn.LeakyReLU(slope, inplace=True),
            conv_norm(width, width, kernel=3, stride=stride, bias=bias),
            nn.LeakyReLU(slope, inplace=True),
            conv_norm(width, width * self.expansion, kernel=1, bias=bias),
        )
        self.shortcut = make_shortcut(inputs, width * self.expansion, stride, shortcut, bias)
        self.attention = ATTENTION[attention](width * self.expansion)
        self.activation = nn.LeakyReLU(slope, inplace=True)

    def forward(self, x):
        return self.activation(self.attention(self.residual(x)) + self.shortcut(x))


def make_shortcut(inputs, outputs, stride, shortcut, bias):
    """The identity where the shape stays; else a normalised convolution, 3x3 only where it down-samples."""
    if stride == 1 and inputs == outputs:
        return nn.Identity()
    kernel = 3 if shortcut == "3x3" and stride > 1 else 1
    return conv_norm(inputs, outputs, kernel=kernel, stride=stride, bias=bias)


def conv_norm(inputs, outputs, kernel, stride=1, bias=True):
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=bias),
        nn.BatchNorm2d(outputs),
    )


def resnet18(**options):
    return ResNet(BasicBlock, (2, 2, 2, 2), **options)


def resnet34(**options):
    return ResNet(BasicBlock, (3, 4, 6, 3), **options)


def resnet50(**options):
    return ResNet(Bottleneck, (3, 4, 6, 3), **options)


def resnet101(**options):
    return ResNet(Bottleneck, (3, 4, 23, 3), **options)


def resnet152(**options):
    return ResNet(Bottleneck, (3, 8, 36, 3), **options)
