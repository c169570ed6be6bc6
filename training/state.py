"""The state of training: the network, its optimizer, its moving average and the number of steps."""

from dataclasses import dataclass, field

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from models.network import Network
from training.losses import Criterion
from training.optimizers import check_optimizer_state


@dataclass
class TrainState:
    """The state of one fold's training; `training.setup.make_state` makes it.

    Attributes:
        model: the Network that learns.
        network: the same, wrapped for several processes or compiled where they are used.
        optimizer: of its parameters.
        criterion: the Criterion.
        learning_rate: a function of the epochs done, with a fraction.
        steps_per_epoch: the number of steps of an epoch.
        seed: (seed, fold).
        sampling: (N,) weights of the training faces to draw them by; None draws each once.
        grad_clip: the largest norm of the gradient; 0 disables clipping.
        frozen: modules that do not learn.
        average: the moving average of the model, or None.
        origin: {name: digest} of the weights that the training depends on: of the initial weights and the teachers.
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
    grad_clip: float = 0.0
    frozen: list = field(default_factory=list)
    average: AveragedModel | None = None
    origin: dict = field(default_factory=dict)
    step: int = 0

    @property
    def epoch(self):
        return self.step // self.steps_per_epoch

    @property
    def evaluated_model(self):
        """The network to evaluate and to save."""
        return self.model if self.average is None else self.average.module

    def train_mode(self):
        """Prepare for training; frozen layers keep their batch statistics as well."""
        self.network.train()
        for module in self.frozen:
            module.eval()

    def set_learning_rate(self, lr):
        for group in self.optimizer.param_groups:
            group["lr"] = lr * group["lr_factor"]

    def parts(self):
        parts = {"model": self.model, "optimizer": self.optimizer}
        return parts if self.average is None else {**parts, "average": self.average}

    def state_dict(self):
        return {"step": self.step, **self.origin, **{name: part.state_dict() for name, part in self.parts().items()}}

    def load_state_dict(self, state):
        """Raises KeyError, RuntimeError, TypeError or ValueError where the state does not fit."""
        for name, digest in self.origin.items():
            if digest and state[name] != digest:
                raise ValueError(f"its {name} had other weights")
        if type(state["step"]) is not int or state["step"] < 0:
            raise ValueError(f"its step is {state['step']}")
        check_optimizer_state(self.optimizer, state["optimizer"])
        for name, part in self.parts().items():
            part.load_state_dict(state[name])
        self.step = state["step"]
