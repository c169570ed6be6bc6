"""Optimizers and their parameter groups. To add an optimizer, write a function here and add it to OPTIMIZERS."""

import torch

from training.muon import Muon


def sgd(groups, lr, momentum, nesterov):
    return torch.optim.SGD(groups, lr, momentum, nesterov=nesterov, fused=True)


def muon(groups, lr, momentum, nesterov):
    """Always with Nesterov momentum."""
    return Muon(groups, lr, momentum)


def adamw(groups, lr, momentum, nesterov):
    """With PyTorch's default moments, 0.9 and 0.999."""
    return torch.optim.AdamW(groups, lr, fused=True)


OPTIMIZERS = {"sgd": sgd, "muon": muon, "adamw": adamw}


def parameter_groups(model, weight_decay, head_lr_factor=1.0):
    """Groups of a Network's parameters that are not frozen; the factor is for the last layer's learning rate."""
    last = set(model.fc.parameters())
    groups = {}
    for parameter in model.parameters():
        if parameter.requires_grad:
            groups.setdefault(head_lr_factor if parameter in last else 1.0, []).append(parameter)
    return [
        {"params": parameters, "weight_decay": weight_decay, "lr_factor": factor}
        for factor, parameters in groups.items()
    ]


def check_optimizer_state(optimizer, state):
    """Compare a recorded state with the optimizer's own, whose shapes and settings torch does not check.

    The optimizer takes a step with zero gradients, so that its own state has all entries; the caller loads parameters
    and state afterwards.

    Args:
        optimizer: a torch.optim.Optimizer.
        state: a state_dict of the same kind of optimizer.

    Raises:
        KeyError, TypeError, ValueError: it does not fit.
    """
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    own = optimizer.state_dict()
    for group, recorded in zip(own["param_groups"], state["param_groups"], strict=True):
        recorded = {"lr_factor": 1.0, **recorded}  # which earlier versions did not have
        if any(recorded[name] != value for name, value in group.items() if name != "lr"):
            raise ValueError("its optimizer has other settings")
    if state["state"].keys() != own["state"].keys():
        raise ValueError("its optimizer's state is not complete")
    for position, values in own["state"].items():
        recorded = state["state"][position]
        for name, value in values.items():
            if describe(recorded[name]) != describe(value):
                raise ValueError(f"its optimizer's {name} is {describe(recorded[name])}, not {describe(value)}")


def describe(value):
    """Type and shape of an entry of an optimizer's state."""
    return f"{value.dtype} {tuple(value.shape)}" if isinstance(value, torch.Tensor) else type(value).__name__
