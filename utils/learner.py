"""What learns: the network, its optimiser, its moving average and its objective, as the settings say."""

import torch
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from data.adience import AGE_GROUPS
from utils.checkpoint import build_model
from utils.losses import LOSSES, Objective
from utils.schedule import learning_rate


class Learner:
    """steps: of an epoch. labels: int64 (N,), of the training faces."""

    def __init__(self, config, compute, steps, labels):
        self.config, self.steps, self.done = config, steps, 0
        self.model = build_model(config).to(compute.device, memory_format=torch.channels_last)
        self.network = compute.network(self.model)
        self.optimizer = torch.optim.SGD(
            parameter_groups(self.model, config.weight_decay, config.decay_weights_only),
            config.lr,
            config.momentum,
            nesterov=config.nesterov,
            fused=True,
        )
        weights = class_weights(labels).to(compute.device) if config.balance == "loss" else None
        self.objective = Objective(LOSSES[config.loss], weights)
        self.sampling = class_weights(labels)[labels] if config.balance == "sampling" else None
        self.average = None
        if config.averaging:
            decay = 1 - 1 / max(1.0, config.averaging * steps * config.epochs)
            self.average = AveragedModel(self.model, multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=True)

    @property
    def reported(self):
        """The network to evaluate and to keep."""
        return self.model if self.average is None else self.average.module

    def go_on(self, done):
        """Stand before the step after so many, of all epochs."""
        self.done = done
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(done / self.steps, self.config)

    @property
    def rate(self):
        """The learning rate of the last step."""
        return learning_rate((self.done - 1) / self.steps, self.config)

    def after_step(self):
        self.go_on(self.done + 1)
        if self.average is not None:
            self.average.update_parameters(self.model)

    def parts(self):
        parts = {"model": self.model, "optimizer": self.optimizer}
        return parts if self.average is None else {**parts, "average": self.average}

    def state(self):
        return {name: part.state_dict() for name, part in self.parts().items()}

    def restore(self, state):
        for name, part in self.parts().items():
            part.load_state_dict(state[name])


def parameter_groups(model, weight_decay, weights_only):
    """Groups for the optimiser; weights are what has two dimensions or more, neither biases nor normalisations."""
    parameters = list(model.parameters())
    if not weights_only:
        return [{"params": parameters, "weight_decay": weight_decay}]
    return [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]


def class_weights(labels):
    """(K,): inversely as frequent as each class, 1 on average over the faces."""
    counts = torch.bincount(labels, minlength=len(AGE_GROUPS))
    return len(labels) / (counts.clamp(min=1) * (counts > 0).sum())
