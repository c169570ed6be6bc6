"""What learns and is recorded: configuration, losses, optimizer, engine, run directory.

The names are here, without torch, because the command line shows them.
"""

# {loss: the head it needs, a name in models.HEADS}; the function of that name is in training/losses.py.
LOSSES = {
    "cross_entropy": "softmax",
    "label_smoothing": "softmax",
    "sord": "softmax",
    "dldl_v2": "softmax",
    "mean_variance": "softmax",
    "unimodal": "binomial",
    "coral": "coral",
    "corn": "corn",
    "double_softmax": "softmax",
}
