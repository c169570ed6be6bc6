"""Age by comparison, after Zhang et al., "Quantifying Facial Age by Posterior of Age Comparisons", BMVC 2017.

In the paper people tell which of two faces is older; here a network does, and it may answer "the same class".
"""

from collections import OrderedDict

import torch
from torch import nn

REFERENCES = 16  # faces of each class


def relation(first, second):
    """The relation of classes to other classes: 0 younger, 1 the same, 2 older."""
    return torch.sign(first - second) + 1


class ComparisonHead(nn.Module):
    """Features (B, F) -> log posteriors (B, K), up to a constant per face.

    Its state has the features of the references (K, R, F), the prior and the comparator, which takes the features of
    two faces (B, 2F) to logits (B, 3): the first is younger, of the same class, or older.
    """

    def __init__(self, in_features, num_classes, references=REFERENCES, width=256):
        super().__init__()
        self.in_features, self.num_classes = in_features, num_classes
        layers = nn.Linear(2 * in_features, width), nn.LeakyReLU(0.2), nn.Dropout(0.3), nn.Linear(width, 3)
        self.comparator = nn.Sequential(OrderedDict(layers=nn.Sequential(*layers)))
        self.register_buffer("references", torch.zeros(num_classes, references, in_features))
        self.register_buffer("log_prior", torch.full((num_classes,), 1 / num_classes).log())

    def forward(self, features):
        """The log prior plus the log likelihoods of all comparisons.

        These are averaged over the references of a class, because comparisons with one class are not independent.
        """
        count, classes = features.shape[0], torch.arange(len(self.references), device=features.device)
        relations = relation(classes[:, None], classes)  # (K, K): of class k to a reference of class c
        posteriors = self.log_prior  # (K,), then (B, K)
        for label, known in enumerate(self.references):  # (R, F)
            pairs = [features.repeat_interleave(len(known), 0), known.repeat(count, 1)]  # (B * R, F) each
            log_likelihoods = self.comparator(torch.cat(pairs, 1)).float().log_softmax(1)  # (B * R, 3)
            log_likelihoods = log_likelihoods.view(count, len(known), 3).mean(1)  # (B, 3)
            posteriors = posteriors + log_likelihoods[:, relations[:, label]]
        return posteriors

    def probabilities(self, outputs):
        return outputs.to(torch.promote_types(outputs.dtype, torch.float32)).softmax(1)
