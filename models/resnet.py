"""Residual networks with leaky ReLUs (He, Zhang, Ren and Sun, "Deep Residual Learning for Image Recognition",
CVPR 2016, Table 1), for all five depths.

Two details follow the published size of the age system, 12,561,672 parameters for ResNet-18: every convolution has a
bias, and the downsampling shortcuts are 3x3 convolutions. `shortcut="1x1"` gives the textbook network: 1x1
shortcuts, no biases. Parameters have torchvision's names, so that its weights load into the textbook network.
`shortcut="pooled"` gives ResNet-D (He, Zhang, Zhang et al., "Bag of Tricks for Image Classification with Convolutional
Neural Networks", CVPR 2019, Figure 2): shortcuts that average before a 1x1 convolution, and a stem of three 3x3 ones.
"""

import math
from functools import partial

import torch
from torch import nn

from models.network import Network


class ResNet(Network):
    """A residual network.

    Args:
        depth: a key of LAYOUTS.
        make_head: a function from the number of features to the last layer.
        negative_slope: negative slope of LeakyReLU; 0 gives ReLU.
        shortcut: "3x3" (the published network), "1x1" (the textbook's) or "pooled" (ResNet-D).
        max_pool: whether the stem ends with max-pooling; without it, layers 1 to 4 see twice the resolution.
        zero_init: whether the blocks start as identities (Goyal et al., 2017, section 5.1).
        width: the number of channels, relative to the paper's 64 to 512.
        mid_width: the number of channels within the blocks, relative to `width`; pruning reduces it.
        standardize: the share of each image by which it is standardised first, see `standardize`; 0: not at all.
        init: "pytorch" leaves PyTorch's own initial weights; "he" draws those of the convolutions from a normal
            distribution scaled for the slope (He et al., "Delving Deep into Rectifiers", ICCV 2015, equation 15).

    Raises:
        ValueError: an unknown name.
    """

    def __init__(
        self,
        depth,
        make_head,
        *,
        negative_slope=0.2,
        shortcut="3x3",
        max_pool=True,
        zero_init=False,
        standardize=0.0,
        init="pytorch",
        width=1.0,
        mid_width=1.0,
    ):
        super().__init__()
        check_choice("shortcut", shortcut, ("3x3", "1x1", "pooled"))
        check_choice("init", init, ("pytorch", "he"))
        check_range("width", width, 1 / 16, 4)
        check_range("mid_width", mid_width, 1 / 64, 1)
        check_range("negative_slope", negative_slope, 0, 1)
        check_range("standardize", standardize or 1, LEAST_SHARE, 1)
        self.standardize = standardize
        block, counts = LAYOUTS[depth]
        channels = [round(width * paper) for paper in (64, 128, 256, 512)]
        make_block = partial(block, slope=negative_slope, shortcut=shortcut, mid_width=mid_width)
        self.conv1 = make_stem(channels[0], negative_slope, shortcut)
        self.bn1 = nn.BatchNorm2d(channels[0])
        self.act = nn.LeakyReLU(negative_slope, inplace=True)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1) if max_pool else nn.Identity()
        self.layer1 = make_layer(make_block, counts[0], channels[0], channels[0])
        self.layer2 = make_layer(make_block, counts[1], channels[0] * block.expansion, channels[1], stride=2)
        self.layer3 = make_layer(make_block, counts[2], channels[1] * block.expansion, channels[2], stride=2)
        self.layer4 = make_layer(make_block, counts[3], channels[2] * block.expansion, channels[3], stride=2)
        self.fc = make_head(channels[3] * block.expansion)
        if init == "he" and not self.bn1.weight.is_meta:  # there PyTorch would import its compiler, for seconds
            he_init(self, negative_slope)
        if zero_init:
            for block in (*self.layer1, *self.layer2, *self.layer3, *self.layer4):
                nn.init.zeros_(getattr(block, block.last_norm).weight)

    def features(self, images):
        x = self.conv1(standardize(images, self.standardize) if self.standardize else images)
        x = self.bn1(x)
        x = self.act(x)  # (B, 64, S/2, S/2) at width 1, as below
        x = self.maxpool(x)

        x = self.layer1(x)  # (B, 64 * expansion, S/4, S/4) with max-pooling
        x = self.layer2(x)  # (B, 128 * expansion, S/8, S/8)
        x = self.layer3(x)  # (B, 256 * expansion, S/16, S/16)
        x = self.layer4(x)  # (B, 512 * expansion, S/32, S/32)

        return x.mean(dim=(2, 3))  # global average pooling: (B, 512 * expansion)


class Block(nn.Module):
    """A residual branch beside a shortcut. A subclass makes the layers of its branch and applies them."""

    def __init__(self, in_channels, width, stride, slope, shortcut, mid_width=1.0):
        super().__init__()
        out_channels, mid_channels = width * self.expansion, max(1, round(mid_width * width))
        self.make_branch(in_channels, mid_channels, out_channels, stride, bias=shortcut != "1x1")
        self.act = nn.LeakyReLU(slope, inplace=True)
        self.downsample = make_downsample(in_channels, out_channels, stride, shortcut)

    def forward(self, x):
        identity = x if self.downsample is None else self.downsample(x)
        return self.act(self.branch(x) + identity)


class BasicBlock(Block):
    """Two 3x3 convolutions (Figure 5, left)."""

    expansion = 1
    mid_norms = (("conv1", "bn1", "conv2"),)  # the channels between two convolutions
    last_norm = "bn2"

    def make_branch(self, in_channels, mid_channels, out_channels, stride, bias):
        self.conv1 = nn.Conv2d(in_channels, mid_channels, 3, stride=stride, padding=1, bias=bias)
        self.bn1 = nn.BatchNorm2d(mid_channels)
        self.conv2 = nn.Conv2d(mid_channels, out_channels, 3, padding=1, bias=bias)
        self.bn2 = nn.BatchNorm2d(out_channels)

    def branch(self, x):
        x = self.act(self.bn1(self.conv1(x)))
        return self.bn2(self.conv2(x))


class Bottleneck(Block):
    """1x1, 3x3 and 1x1 convolutions (Figure 5, right); the 3x3 one strides, as in torchvision."""

    expansion = 4
    mid_norms = (("conv1", "bn1", "conv2"), ("conv2", "bn2", "conv3"))
    last_norm = "bn3"

    def make_branch(self, in_channels, mid_channels, out_channels, stride, bias):
        self.conv1 = nn.Conv2d(in_channels, mid_channels, 1, bias=bias)
        self.bn1 = nn.BatchNorm2d(mid_channels)
        self.conv2 = nn.Conv2d(mid_channels, mid_channels, 3, stride=stride, padding=1, bias=bias)
        self.bn2 = nn.BatchNorm2d(mid_channels)
        self.conv3 = nn.Conv2d(mid_channels, out_channels, 1, bias=bias)
        self.bn3 = nn.BatchNorm2d(out_channels)

    def branch(self, x):
        x = self.act(self.bn1(self.conv1(x)))
        x = self.act(self.bn2(self.conv2(x)))
        return self.bn3(self.conv3(x))


def make_layer(make_block, count, in_channels, width, stride=1):
    """`count` blocks in sequence; the first one strides and changes the number of channels."""
    first = make_block(in_channels, width, stride)
    return nn.Sequential(first, *(make_block(width * first.expansion, width, 1) for _ in range(count - 1)))


def standardize(images, share):
    """Give each channel of each image (B, 3, S, S) mean 0 and about the same contrast.

    So a photograph that is dark, faded or has a cast looks like others. Mean and deviation are those of the middle,
    `share` of each side, so that neither a border nor what is beside the face counts. LEAST_CONTRAST is added to the
    deviation: a nearly blank image stays one.
    """
    size = images.shape[-1]
    edge = round((1 - share) / 2 * size)
    middle = (..., slice(edge, size - edge), slice(edge, size - edge))
    images = images - images[middle].mean((2, 3), keepdim=True)
    # torch.std takes twice as long as the norm of what has a mean of 0.
    norm = torch.linalg.vector_norm(images[middle], dim=(2, 3), keepdim=True)
    deviation = norm / math.sqrt((size - 2 * edge) ** 2 - 1)
    return images / (deviation + LEAST_CONTRAST)


def make_stem(channels, slope, shortcut):
    """The first convolution, of stride 2."""
    if shortcut != "pooled":
        return nn.Conv2d(3, channels, 7, stride=2, padding=3, bias=shortcut == "3x3")
    half, layers = max(1, channels // 2), []
    for before, stride in ((3, 2), (half, 1)):
        layers += [nn.Conv2d(before, half, 3, stride=stride, padding=1, bias=False), nn.BatchNorm2d(half)]
        layers.append(nn.LeakyReLU(slope, inplace=True))
    return nn.Sequential(*layers, nn.Conv2d(half, channels, 3, padding=1))


def make_downsample(in_channels, out_channels, stride, shortcut):
    """None where the shape stays; else a convolution and its BatchNorm, 3x3 only where it strides."""
    if stride == 1 and in_channels == out_channels:
        return None
    if shortcut == "pooled":
        layers = [nn.AvgPool2d(2, 2, ceil_mode=True, count_include_pad=False)] if stride > 1 else []
        layers += [nn.Conv2d(in_channels, out_channels, 1, bias=False), nn.BatchNorm2d(out_channels)]
        return nn.Sequential(*layers)
    kernel = 3 if shortcut == "3x3" and stride > 1 else 1
    convolution = nn.Conv2d(
        in_channels, out_channels, kernel, stride=stride, padding=kernel // 2, bias=shortcut == "3x3"
    )
    return nn.Sequential(convolution, nn.BatchNorm2d(out_channels))


def he_init(model, negative_slope):
    """Initialise convolutions as in He et al. (2015), by fan-out, and their biases with 0."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, a=negative_slope, mode="fan_out", nonlinearity="leaky_relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def check_range(name, value, low, high):
    if not low <= value <= high:
        raise ValueError(f"{name} is {value}; it is from {low} to {high}")


def check_choice(name, value, choices):
    if value not in choices:
        raise ValueError(f"{name} is {value!r}; it is {' or '.join(map(repr, choices))}")


LEAST_SHARE = 0.1  # a smaller share of the smallest images has fewer than four pixels a side
LEAST_CONTRAST = 0.2  # the channels of a usual image have a deviation of about 1

# Block, and how many of them each of the four layers has (Table 1).
LAYOUTS = {
    18: (BasicBlock, (2, 2, 2, 2)),
    34: (BasicBlock, (3, 4, 6, 3)),
    50: (Bottleneck, (3, 4, 6, 3)),
    101: (Bottleneck, (3, 4, 23, 3)),
    152: (Bottleneck, (3, 8, 36, 3)),
}
RESNETS = {f"resnet{depth}": partial(ResNet, depth) for depth in LAYOUTS}
