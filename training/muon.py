"""Muon: momentum that is orthogonalised, so that every direction of a convolution's weights learns at the same pace."""

import torch

# The polynomial a s + b s^3 + c s^5 raises all singular values s towards 1. Coefficients and number of steps are the
# authors' for convolutional networks.
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
STEPS = 3
TINY = 1e-15
UPDATE_RMS = 1 / 64  # of a convolution's update, relative to the learning rate: one rate then serves all parameters


class Muon(torch.optim.Optimizer):
    """SGD with Nesterov momentum, whose updates of convolutions are orthogonalised.

    Jordan et al., "Muon: An optimizer for hidden layers in neural networks", 2024, with updates of a fixed root mean
    square as in Liu et al., "Muon is Scalable for LLM Training", 2025. torch.optim.Muon takes matrices only, and
    computes in bf16, which is slow on many CPUs.

    Args:
        groups: parameter groups. Parameters of four dimensions (O, I, H, W) are orthogonalised as matrices
            (O, I * H * W) if I > 3. All others, as the first layer and depthwise convolutions, follow SGD.
        lr: the learning rate.
        momentum: from 0 to 1, excluded.

    Weight decay is decoupled: each step multiplies the weights with 1 - lr * weight_decay.
    """

    def __init__(self, groups, lr, momentum):
        super().__init__(groups, {"lr": lr, "momentum": momentum, "weight_decay": 0.0})

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            lr, momentum = group["lr"], group["momentum"]
            for parameter in group["params"]:
                state, gradient = self.state[parameter], parameter.grad
                if "momentum_buffer" not in state:
                    state["momentum_buffer"] = torch.zeros_like(parameter)
                buffer = state["momentum_buffer"].mul_(momentum).add_(gradient)
                update = gradient.add(buffer, alpha=momentum)
                if parameter.ndim == 4 and parameter.shape[1] > 3:  # a convolution, but not the first layer's
                    update = orthogonalized(update.flatten(1)).view(update.shape)
                parameter.mul_(1 - lr * group["weight_decay"]).sub_(update, alpha=lr)


def orthogonalized(matrix):
    """A matrix with the singular vectors of the given one and nearly equal singular values.

    The Newton-Schulz iteration X <- a X + b (X X^T) X + c (X X^T)^2 X, computed on the small matrix X X^T: what
    multiplies X in all steps is gathered in one square matrix, which spares two large products per step.

    Args:
        matrix: float (M, N).

    Returns:
        float (M, N), of root mean square UPDATE_RMS where all singular values are 1.
    """
    a, b, c = COEFFICIENTS
    tall = matrix.shape[0] > matrix.shape[1]
    matrix = matrix.T if tall else matrix
    largest = matrix.abs().amax().clamp_min(torch.finfo(matrix.dtype).tiny)
    matrix = matrix / torch.where(largest < TINY, largest, 1.0)  # otherwise the squares of its norm underflow
    matrix = matrix / matrix.norm().clamp_min(1e-30)
    gram = matrix @ matrix.T  # (M, M)
    identity = torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
    product = factor = a * identity + b * gram + c * gram @ gram
    for _ in range(STEPS - 1):
        gram = factor @ gram @ factor  # all of them are polynomials of the first one, so that they commute
        factor = a * identity + b * gram + c * gram @ gram
        product = factor @ product
    result = (product @ matrix) * (UPDATE_RMS * matrix.shape[1] ** 0.5)
    return result.T if tall else result
