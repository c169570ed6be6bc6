"""Fewer channels within the blocks of a trained ResNet: the strongest ones are kept.

Structured pruning as in Li et al., "Pruning Filters for Efficient ConvNets", ICLR 2017, section 3.3: what the shortcuts
add keeps its channels, so that each block is pruned for itself. A channel counts by the scale of its normalisation
(Liu et al., "Learning Efficient Convolutional Networks through Network Slimming", ICCV 2017) times the norm of the
weights that read it, since a scale can be moved from the one to the other without any effect.
"""

import torch


def pruned_state(model, state):
    """The tensors of a trained network with as many channels within its blocks as `model` has.

    Args:
        model: a Network of the same kind with as many or fewer channels there.
        state: {name: tensor} of the trained one.

    Returns:
        A new dict; blocks that have as many channels already, or none of these names, are as they were.
    """
    state = dict(state)
    for prefix, block in model.named_modules():
        for before, norm, after in getattr(block, "mid_norms", ()):
            scale, reader = (state.get(f"{prefix}.{name}.weight") for name in (norm, after))
            count = getattr(block, norm).num_features
            if scale is None or reader is None or reader.dim() != 4 or scale.shape != reader.shape[1:2]:
                continue
            if len(scale) > count:
                kept = strongest(scale, reader, count)
                between = f"{prefix}.{before}.", f"{prefix}.{norm}."
                for name, tensor in state.items():
                    if name.startswith(between) and tensor.shape[:1] == scale.shape:
                        state[name] = tensor[kept]
                state[f"{prefix}.{after}.weight"] = reader[:, kept]
    return state


def strongest(scale, reader, count):
    """The positions, in order, of the channels that contribute most.

    Args:
        scale: (C,), of the normalisation.
        reader: (O, C, H, W), the weights that read the channels.
        count: how many to keep.
    """
    contribution = scale.abs() * reader.pow(2).sum(dim=(0, 2, 3)).sqrt()
    return torch.topk(contribution, count).indices.sort().values
