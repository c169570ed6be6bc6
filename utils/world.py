"""The processes that train together: how many there are, which one this is, and how they agree.

`torchrun` starts them and tells each one its place in the environment.
"""

import atexit
import os
from dataclasses import dataclass

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn


@dataclass(frozen=True)
class World:
    """One process of `size`, number `rank`; alone unless torchrun says otherwise."""

    rank: int = 0
    size: int = 1

    @classmethod
    def join(cls):
        """Meet the others. Tensors on GPUs then travel by NCCL, those on CPUs by gloo."""
        if "WORLD_SIZE" not in os.environ:
            return cls()
        if not dist.is_initialized():
            dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo")
            atexit.register(dist.destroy_process_group)
        return cls(dist.get_rank(), dist.get_world_size())

    @property
    def leads(self):
        """Whether this is the process that writes files and speaks."""
        return self.rank == 0

    def sum(self, tensor):
        """The sum over all processes, in place."""
        if self.size > 1:
            dist.all_reduce(tensor)
        return tensor

    def largest(self, number):
        """The largest of the processes' whole numbers; all of them learn it."""
        if self.size == 1:
            return number
        agreed = torch.tensor(number)
        dist.all_reduce(agreed, dist.ReduceOp.MAX)
        return int(agreed)

    def wait(self):
        """Until every process has come here."""
        if self.size > 1:
            dist.barrier()


ALONE = World()


def distribute(model, device, world):
    """The network to train with: gradients and batch statistics are those of the whole batch.

    Replaces the model's batch normalisations in place; its state_dict keeps its names.
    """
    if world.size == 1:
        return model
    if device.type == "cuda":
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
        return nn.parallel.DistributedDataParallel(model, device_ids=[device.index])
    synchronise_norms(model)
    return nn.parallel.DistributedDataParallel(model)


def synchronise_norms(module):
    """Replace each BatchNorm2d below the module by one over all processes' batches; torch has that for GPUs only."""
    for name, child in module.named_children():
        if type(child) is nn.BatchNorm2d:
            replacement = SharedBatchNorm2d(child.num_features, child.eps, child.momentum)
            replacement.load_state_dict(child.state_dict())
            replacement.weight, replacement.bias = child.weight, child.bias
            setattr(module, name, replacement)
        else:
            synchronise_norms(child)


class SharedBatchNorm2d(nn.BatchNorm2d):
    """Batch normalisation (Ioffe and Szegedy, ICML 2015) with the statistics of all processes' parts of the batch."""

    def forward(self, x):
        if not self.training:
            return super().forward(x)
        y, mean, var, count = SharedNormalisation.apply(x, self.weight, self.bias, self.eps)
        with torch.no_grad():
            self.num_batches_tracked += 1
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(var * (count / (count - 1)), self.momentum)
        return y


class SharedNormalisation(torch.autograd.Function):
    """x (B, C, H, W) normalised per channel over B, H, W and the processes; and mean, variance, count."""

    @staticmethod
    def forward(ctx, x, weight, bias, eps):
        # Given float32 buffers it counts in float32 though x may be bf16; a momentum of 0 leaves them alone.
        buffers = (torch.zeros_like(weight), torch.zeros_like(weight))
        own_mean, own_var = (own.double() for own in torch.batch_norm_update_stats(x, *buffers, 0.0))
        own_count = x.numel() // x.shape[1]
        sums = torch.stack([own_mean, own_var + own_mean.square(), torch.ones_like(own_mean)]) * own_count
        dist.all_reduce(sums)
        count = sums[2]
        mean = (sums[0] / count).float()
        var = (sums[1] / count - (sums[0] / count).square()).float()
        y = F.batch_norm(x, mean, var, weight, bias, False, 0.0, eps)
        ctx.save_for_backward(x, weight, mean, var, count)
        ctx.eps = eps
        ctx.mark_non_differentiable(mean, var, count)
        return y, mean, var, count.float()

    @staticmethod
    def backward(ctx, grad, *_):
        """Ioffe and Szegedy, section 3, with the two sums taken over all processes."""
        x, weight, mean, var, count = ctx.saved_tensors
        # As if mean and variance were given: (grad * weight / sigma, sum of grad * x_hat, sum of grad).
        grad_x, grad_weight, grad_bias = torch.ops.aten.native_batch_norm_backward(
            grad, x, weight, mean, var, None, None, False, ctx.eps, [True, True, True]
        )
        sums = torch.stack([grad_weight, grad_bias]).double()
        dist.all_reduce(sums)
        over_weight, over_bias = (sums / count).float()
        scale = torch.rsqrt(var + ctx.eps)
        slope = -weight * scale.square() * over_weight
        offset = -weight * scale * over_bias - slope * mean
        per_channel = (1, -1, 1, 1)
        along = torch.addcmul(offset.view(per_channel), x.float(), slope.view(per_channel))
        return grad_x.add_(along), grad_weight, grad_bias, None
