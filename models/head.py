"""The last layer: features (B, F) in, outputs (B, D) out."""

import torch
from torch import nn


def make_head(features, outputs, shared=False):
    """A linear layer; shared: one weight vector for all outputs, each with a bias of its own."""
    return SharedLinear(features, outputs) if shared else nn.Linear(features, outputs)


class SharedLinear(nn.Module):
    """CORAL's last layer (Cao, Mirjalili and Raschka, 2020): thresholds on one scale."""

    def __init__(self, features, outputs):
        super().__init__()
        self.in_features = features
        self.scale = nn.Linear(features, 1, bias=False)
        # Falling from the start, as P(older than k) does; as in the authors' package.
        self.bias = nn.Parameter(torch.arange(outputs, 0, -1).float() / outputs)

    def forward(self, features):
        return self.scale(features) + self.bias
