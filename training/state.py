"""The state of training: the network, its optimizer and the number of steps."""

from dataclasses import dataclass, field

import torch
from torch import nn

from models.network import Network
from training.losses import Criterion
from training.optimizers import check_optimizer_state


@dataclass
class TrainState:
    """The state of one fold's training; `training.setup.make_state` makes it.

    Attributes:
        model: the Network that learns.
        network: the same, synchronized between processes and compiled where that is asked for.
        optimizer: of its parameters.
        criterion: the Criterion.
        learning_rate: a function of the epochs done, with a fraction.
        steps_per_epoch: the number of steps of an epoch.
        seed: (seed, fold).
        sampling: (N,) weights of the training faces to draw them by; None draws each once.
        frozen: modules that do not learn.
        digests: {"teachers": one for each, "initial": of the initial weights, or ""}; a resumed fold has the same.
        step: the number of steps of all epochs so far.
    """

    model: Network
    network: nn.Module
    optimizer: torch.optim.Optimizer
    criterion: Criterion
    learning_rate: object
    steps_per_epoch: int
    seed: tuple
    sampling: torch.Tensor | None = None
    frozen: list = field(default_factory=list)
    digests: dict = field(default_factory=dict)
    step: int = 0

    def train_mode(self):
        """Prepare for training; frozen layers keep their batch statistics as well."""
        self.network.train()
        for module in self.frozen:
            module.eval()

    def set_learning_rate(self, lr):
        for group in self.optimizer.param_groups:
            group["lr"] = lr * group["lr_factor"]

    def state_dict(self):
        parts = {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict()}
        return {"step": self.step, **self.digests, **parts}

    def load_state_dict(self, state):
        """Raises KeyError, RuntimeError, TypeError or ValueError where the state does not fit."""
        for name, digest in self.digests.items():
            if digest and state[name] != digest:
                raise ValueError(f"its {name} had other weights")
        if type(state["step"]) is not int or state["step"] < 0:
            raise ValueError(f"its step is {state['step']}")
        check_optimizer_state(self.optimizer, state["optimizer"])
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step = state["step"]
