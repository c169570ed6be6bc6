"""Age by comparison, after Zhang et al., "Quantifying Facial Age by Posterior of Age Comparisons", BMVC 2017.

A comparator says which of two faces is older. Comparing a face with reference faces of known classes gives the
posterior over classes. In the paper people compare; here a network does, and it may answer "the same class".
"""

import torch
from torch import nn

from models import create_model
from models.heads import SoftmaxHead
from models.network import Network
from utils.errors import UserError

YOUNGER, SAME, OLDER = 0, 1, 2


class ComparisonNet(Network):
    """A network whose last layer compares the features of a face with those of reference faces.

    Args:
        backbone: the Network that computes the features; its own last layer is removed.
        head: a ComparisonHead.
    """

    def __init__(self, backbone, head):
        super().__init__()
        self.image_size, self.fixed_size = backbone.image_size, backbone.fixed_size
        self.mean, self.std = backbone.mean, backbone.std
        backbone.fc = nn.Identity()
        self.backbone = backbone
        self.fc = head

    def features(self, images):
        return self.backbone.features(images)  # (B, F)


def comparison(make_head, backbone, references=16):
    """Create a ComparisonNet.

    Args:
        make_head: makes a SoftmaxHead, which gives the number of classes.
        backbone: the description of a network, see `create_model`.
        references: the number of reference faces of each class.

    Raises:
        UserError: the head is not a softmax head, or the backbone compares, too.
    """
    if backbone["name"] == "comparison":  # nested ones would take twice the time for every level
        raise UserError("a comparison needs the features of a network that is no comparison itself")
    network = create_model(**backbone)
    features = network.head.in_features
    head = make_head(features)
    if not isinstance(head, SoftmaxHead):
        raise UserError("a comparison gives log posteriors, which need the head 'softmax'")
    return ComparisonNet(network, ComparisonHead(features, head.num_classes, references))


class ComparisonHead(nn.Module):
    """Features (B, F) -> log posteriors (B, K), up to a constant per face.

    The features of the references and the prior are part of the state; `set_references` sets them.
    """

    def __init__(self, in_features, num_classes, references):
        super().__init__()
        self.in_features, self.num_classes = in_features, num_classes
        self.comparator = Comparator(in_features)
        self.register_buffer("references", torch.zeros(num_classes, references, in_features))
        self.register_buffer("log_prior", torch.full((num_classes,), 1 / num_classes).log())

    def set_references(self, features, prior):
        """Set what faces are compared with.

        Args:
            features: (K, R, F), of R faces of each class.
            prior: (K,), the frequency of each class.
        """
        self.references.copy_(features)
        self.log_prior.copy_(prior.log())

    def forward(self, features):
        """The log prior plus the log likelihoods of all comparisons.

        The log likelihoods are averaged over the references of a class, because these comparisons are not
        independent: eight classes count as eight comparisons.
        """
        count, classes = features.shape[0], torch.arange(self.num_classes, device=features.device)
        relation = torch.sign(classes[:, None] - classes[None, :]) + 1  # (K, K): of class k to a reference of class c
        total = self.log_prior.expand(count, -1)  # (B, K)
        for label in range(self.num_classes):
            known = self.references[label]  # (R, F)
            pairs = features.repeat_interleave(len(known), 0), known.repeat(count, 1)  # (B * R, F) each
            log_likelihood = self.comparator(*pairs).float().log_softmax(1)  # (B * R, 3)
            log_likelihood = log_likelihood.view(count, len(known), 3).mean(1)  # (B, 3)
            total = total + log_likelihood[:, relation[:, label]]
        return total

    def probabilities(self, outputs):
        return outputs.float().softmax(1)


class Comparator(nn.Module):
    """Features of two faces, (B, F) each -> logits (B, 3): the first is younger, of the same class, or older."""

    def __init__(self, features, width=256):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(2 * features, width), nn.LeakyReLU(0.2), nn.Dropout(0.3), nn.Linear(width, 3)
        )

    def forward(self, first, second):
        return self.layers(torch.cat([first, second], dim=1))


def without_head(state_dict):
    """The state of a network without its last layer; it loads strictly into the backbone of a ComparisonNet."""
    return {name: value for name, value in state_dict.items() if not name.startswith("fc.")}
