"""Losses: logits (B, K) and labels int64 (B,) in, one number out."""

import torch.nn.functional as F

# Cross entropy is taken over the softmax of the logits, once: it wants logits, not probabilities.
LOSSES = {
    "cross_entropy": F.cross_entropy,
}
