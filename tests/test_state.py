"""The training state: what decays, what rare classes weigh, and what comes back."""

import copy

import pandas as pd
import pytest
import torch

from data.faces import Faces
from training.config import Config
from training.optimizers import check_optimizer_state
from training.setup import make_state, sampling_weights, set_up_folds
from utils.classes import Classes
from utils.device import Runtime
from utils.errors import UserError

CPU = Runtime(torch.device("cpu"), "fp32")
LABELS = torch.tensor([0, 0, 0, 1])


def faces_of(labels, *names, fold=1):
    table = pd.DataFrame({"label": labels, "path": "a", "fold": fold, "album": "b", "person": "c"})
    return Faces(table, Classes(names))


def state(**settings):
    """The state of fold 0, whose training faces are in fold 1."""
    config = Config(image_size=40, batch_size=4, width=0.125, folds=(0,), **{"epochs": 10, **settings})
    _, setups = set_up_folds(config, faces_of(LABELS.tolist() * 10, "young", "old"), world_size=1)
    return make_state(config, setups[0], CPU)


def test_sampling_weights_by_hand():
    # Two classes in four faces: 4 / (2 * 3) and 4 / (2 * 1); one per face on average.
    weights = sampling_weights(faces_of(LABELS, "young", "old"))
    assert weights.tolist() == pytest.approx([2 / 3, 2 / 3, 2 / 3, 2])
    with pytest.raises(UserError, match=r"no training face is labelled .60\+., so"):
        sampling_weights(faces_of(LABELS, "young", "old", "60+"))
    assert state(balance="sampling").sampling[:4].tolist() == pytest.approx([2 / 3, 2 / 3, 2 / 3, 2])
    assert state().sampling is None


def test_the_learning_rate_reaches_every_parameter_group():
    cosine = state(schedule="cosine", warmup=2.0, lr=0.4, head_lr_factor=10)
    assert cosine.steps_per_epoch == 10
    cosine.set_learning_rate(cosine.learning_rate(10 / 10))  # one of ten epochs: half of the warm-up
    assert [group["lr"] for group in cosine.optimizer.param_groups] == pytest.approx([0.2, 2.0])
    assert cosine.learning_rate(60 / 10) == pytest.approx(0.2)  # six epochs: half of the cosine


@pytest.mark.parametrize("optimizer", [{"nesterov": True}, {"optimizer": "muon"}], ids=["sgd", "muon"])
def test_the_state_comes_back(optimizer):
    settings = {"momentum": 0.9, **optimizer}
    first = state(**settings)
    for _ in range(2):
        first.criterion(first.network(torch.randn(4, 3, 40, 40)), LABELS).backward()
        first.optimizer.step()
        first.step += 1
    second = state(**settings)
    second.load_state_dict(first.state_dict())
    assert second.step == 2
    for ours, theirs in zip(second.model.parameters(), first.model.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    momenta = [values["momentum_buffer"] for values in second.optimizer.state.values()]
    assert len(momenta) == len(list(second.model.parameters()))


def test_the_seed_and_the_fold_decide_the_initial_weights():
    def weights(**settings):
        return state(**settings).model.conv1.weight

    assert torch.equal(weights(), weights())
    assert not torch.equal(weights(), weights(seed=1))


def trained_state(optimizer):
    """A TrainState after one step with momentum, as it is saved."""
    first = state(momentum=0.9, optimizer=optimizer)
    first.criterion(first.network(torch.randn(4, 3, 40, 40)), LABELS).backward()
    first.optimizer.step()
    first.step += 1
    return first.state_dict()


def spoil_momentum(value):
    def spoil(saved):
        saved["optimizer"]["state"][0]["momentum_buffer"] = value

    return spoil


@pytest.mark.parametrize(
    "spoil",
    [
        # SGD's fused step reads beyond the end of a buffer of another shape or type.
        spoil_momentum(torch.zeros(3)),
        spoil_momentum(torch.zeros(8, 3, 7, 7, dtype=torch.int64)),
        spoil_momentum(None),
        spoil_momentum("text"),
        lambda saved: saved["optimizer"]["state"].popitem(),
        lambda saved: saved["optimizer"]["param_groups"][0].update(momentum=0.1),
        lambda saved: saved["optimizer"]["param_groups"][0].update(params=[0]),
        lambda saved: saved["optimizer"]["param_groups"].clear(),
        lambda saved: saved.update(step=-1),
        lambda saved: saved.update(step=1.0),
        lambda saved: saved.update(model={}),
    ],
)
@pytest.mark.parametrize("optimizer", ["sgd", "muon"])
def test_a_state_that_does_not_fit_is_refused(spoil, optimizer):
    saved = trained_state(optimizer)
    state(momentum=0.9, optimizer=optimizer).load_state_dict(trained_state(optimizer))
    spoil(saved)
    with pytest.raises((KeyError, RuntimeError, TypeError, ValueError, AttributeError)):
        state(momentum=0.9, optimizer=optimizer).load_state_dict(saved)


@pytest.mark.parametrize("make", [torch.optim.RAdam, torch.optim.RMSprop, torch.optim.AdamW, torch.optim.Adagrad])
def test_the_state_of_any_optimizer_is_compared_with_its_own(make):
    """One that a user adds resumes, and a state of other shapes or types is refused."""
    first, second = (make([{"params": [torch.nn.Parameter(torch.ones(3))], "lr_factor": 1.0}]) for _ in range(2))
    first.param_groups[0]["params"][0].grad = torch.tensor([1.0, 2.0, 3.0])
    first.step()
    saved = first.state_dict()
    check_optimizer_state(second, copy.deepcopy(saved))
    for name in saved["state"][0]:
        for wrong in (torch.zeros(4), torch.zeros(3, dtype=torch.int64), "text"):
            spoiled = copy.deepcopy(saved)
            spoiled["state"][0][name] = wrong
            with pytest.raises(ValueError, match=f"its optimizer's {name} is "):
                check_optimizer_state(second, spoiled)
