"""Age by comparison, after Zhang et al., "Quantifying Facial Age by Posterior of Age Comparisons", BMVC 2017.

A comparator says of two faces which is older; the posterior over age groups follows from comparing a face with
reference faces whose groups are known. In the paper people compare, here a network does; it may say "the same group".
"""

import torch
from torch import nn

YOUNGER, SAME, OLDER = 0, 1, 2


class Comparator(nn.Module):
    """Features of two faces, (B, F) each -> logits (B, 3): the first is younger, of the same group, or older."""

    def __init__(self, features, width=256):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(2 * features, width), nn.LeakyReLU(0.2), nn.Dropout(0.3), nn.Linear(width, 3)
        )

    def forward(self, first, second):
        return self.layers(torch.cat([first, second], dim=1))


class ComparisonNet(nn.Module):
    """Log posteriors (B, K) of normalised images, by comparison with `per_group` references of each of K groups.

    backbone: a network with `features`. The references' features and the prior are part of the state;
    `set_references` fills them.
    """

    def __init__(self, backbone, features, classes=8, per_group=16):
        super().__init__()
        self.backbone = backbone
        self.comparator = Comparator(features)
        self.classes, self.per_group = classes, per_group
        self.register_buffer("references", torch.zeros(classes, per_group, features))
        self.register_buffer("log_prior", torch.full((classes,), 1 / classes).log())

    def set_references(self, features, prior):
        """features: (K, per_group, F), of faces of each group in turn. prior: (K,), how frequent the groups are."""
        self.references.copy_(features)
        self.log_prior.copy_(prior.log())

    def forward(self, images):
        return self.log_posterior(self.backbone.features(images).float())

    def log_posterior(self, features):
        """features (B, F) -> (B, K), up to a constant per face: the prior times how likely all comparisons are.

        The likelihoods of a group's references are averaged in the logarithm, since they are not independent: eight
        groups count as eight comparisons.
        """
        count, groups = len(features), torch.arange(self.classes, device=features.device)
        relation = torch.sign(groups[:, None] - groups[None, :]) + 1  # (K, K): of group k to a reference of group g
        total = self.log_prior.expand(count, -1)
        for group in range(self.classes):
            known = self.references[group]  # (R, F)
            pairs = features.repeat_interleave(len(known), 0), known.repeat(count, 1)
            said = self.comparator(*pairs).float().log_softmax(1).view(count, len(known), 3).mean(1)  # (B, 3)
            total = total + said[:, relation[:, group]]
        return total
