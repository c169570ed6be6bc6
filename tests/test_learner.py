"""The learner: what decays, what is averaged, what rare groups weigh; recipes as sets of options."""

import pytest
import torch
from torch import nn
from torch.nn.functional import interpolate

from augment import Targets, to_network_input
from data.loader import FaceDataset
from main import examine
from utils import UserError
from utils.config import RECIPES, Config, make_config
from utils.device import Compute
from utils.learner import Learner, class_weights, parameter_groups
from utils.schedule import training_size

CPU = Compute(torch.device("cpu"), "fp32")
LABELS = torch.tensor([0, 0, 0, 1])


def learner(**settings):
    torch.manual_seed(0)
    return Learner(Config(image_size=40, epochs=10, **settings), CPU, 10, LABELS)


def test_weights_alone_decay():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 2))
    (every,) = parameter_groups(model, 0.1, weights_only=False)
    assert len(every["params"]) == 6
    weights, others = parameter_groups(model, 0.1, weights_only=True)
    assert [p.ndim for p in weights["params"]] == [4, 2]
    assert (weights["weight_decay"], others["weight_decay"]) == (0.1, 0.0)
    assert len(others["params"]) == 4


def test_class_weights_by_hand():
    # Two classes of four faces that occur: 4 / (2 * 3) and 4 / (2 * 1); one face on average.
    weights = class_weights(LABELS)
    assert weights[:2].tolist() == pytest.approx([2 / 3, 2])
    assert weights[LABELS].mean().item() == pytest.approx(1)


def test_balance_goes_to_the_sampling_or_to_the_loss():
    assert learner(balance="sampling").sampling.tolist() == pytest.approx([2 / 3, 2 / 3, 2 / 3, 2])
    assert learner(balance="loss").objective.class_weights is not None
    assert learner().sampling is None
    assert learner().objective.class_weights is None


def test_the_average_follows_with_its_horizon():
    averaged = learner(averaging=0.1)  # ten of a hundred steps, so a decay of 0.9
    bias, average = averaged.model.head.bias, averaged.reported.head.bias
    with torch.no_grad():
        bias.fill_(1.0)
        averaged.after_step()  # the first step is taken over whole
        bias.fill_(2.0)
        averaged.after_step()
    assert average[0].item() == pytest.approx(0.9 * 1 + 0.1 * 2)
    assert averaged.reported is not averaged.model


def test_the_learning_rate_keeps_pace_with_the_steps():
    cosine = learner(schedule="cosine", warmup=2.0, lr=0.4, decay_weights_only=True)
    cosine.go_on(10)  # one of ten epochs: half of the warm-up
    assert [group["lr"] for group in cosine.optimizer.param_groups] == pytest.approx([0.2, 0.2])
    cosine.go_on(59)
    cosine.after_step()  # six epochs: half of the cosine
    assert cosine.optimizer.param_groups[0]["lr"] == pytest.approx(0.2)
    assert cosine.rate > 0.2  # of the step that was taken


def test_the_images_grow_in_four_equal_stages():
    growing = Config(image_size=112, first_size=64, epochs=10)  # stages begin with epochs 0, 2.5, 5 and 7.5
    assert [training_size(epoch, growing) for epoch in range(10)] == [64] * 3 + [80] * 2 + [96] * 3 + [112] * 2
    # Fewer epochs than stages end with the whole size all the same.
    assert [training_size(epoch, Config(image_size=112, first_size=64, epochs=2)) for epoch in (0, 1)] == [64, 112]
    assert training_size(0, Config(image_size=112, first_size=64, epochs=1)) == 112
    assert {training_size(epoch, Config(image_size=112, epochs=10)) for epoch in range(10)} == {112}


def test_while_they_are_small_they_are_small_in_evaluation_too():
    images = torch.randint(0, 256, (4, 3, 48, 48), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    config = Config(image_size=48, first_size=40, epochs=2)
    torch.manual_seed(0)
    untrained = Learner(config, CPU, 10, LABELS)
    small, whole = (
        examine(config, untrained, FaceDataset(images, range(4), LABELS.tolist()), CPU, size).probabilities
        for size in (40, 48)
    )
    with torch.inference_mode():
        shrunk = interpolate(to_network_input(images), (40, 40), mode="bilinear", antialias=True)
        expected = untrained.model.eval()(shrunk).softmax(1).numpy()
    assert small == pytest.approx(expected, abs=1e-5)
    assert abs(small - whole).max() > 1e-3


@pytest.mark.parametrize("size", [39, 113])
def test_a_first_size_that_makes_no_sense(size):
    with pytest.raises(UserError, match=f"--first-size {size}: 40 to the --image-size 112 is wanted, or 0"):
        Config(image_size=112, first_size=size)


def test_state_comes_back():
    first = learner(averaging=0.1, nesterov=True)
    images = torch.randn(4, 3, 40, 40)
    for _ in range(2):
        first.objective(first.network(images), Targets(LABELS)).backward()
        first.optimizer.step()
        first.after_step()
    second = learner(averaging=0.1, nesterov=True)
    second.restore(first.state())
    for ours, theirs in zip(second.state()["average"].values(), first.state()["average"].values(), strict=True):
        assert torch.equal(ours, theirs)
    momenta = [state["momentum_buffer"] for state in second.optimizer.state.values()]
    assert len(momenta) == len(list(second.model.parameters()))


def test_a_recipe_is_options_and_gives_way_to_the_command_line():
    modern = make_config({"recipe": "modern"})
    assert modern.recipe == "modern"
    assert all(getattr(modern, name) == value for name, value in RECIPES["modern"].items())
    assert make_config({"recipe": "modern", "loss": "corn"}).loss == "corn"
    assert make_config({}) == Config()


def test_settings_that_contradict_each_other():
    with pytest.raises(UserError, match=r"--decode val: there are no validation faces to choose on; add"):
        Config(decode="val")
    with pytest.raises(UserError, match=r"--warmup 100.0: fewer than the 100 --epochs are wanted"):
        Config(warmup=100.0)
