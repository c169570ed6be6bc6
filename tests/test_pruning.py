"""Fewer channels within the blocks: which stay, that the rest computes the same, and how many operations are left."""

import subprocess
import sys

import pytest
import torch
from conftest import ROOT, call

import main
from models import create_model
from models.pruning import multiply_adds, pruned_state, strongest
from tools.prune import find_width, pruned_config
from training.config import Config, chosen_settings
from utils.errors import UserError

SMALL = {"name": "resnet18", "head": "softmax", "num_classes": 5, "width": 0.125}


def test_the_strongest_channels_by_hand():
    # Scales 1, 2, 3 and 0.5 times the readers' norms 5, 2, 1 and 8: contributions of 5, 4, 3 and 4.
    scale = torch.tensor([1.0, -2.0, 3.0, 0.5])
    reader = torch.tensor([[3.0, 2.0, 0.0, 8.0], [4.0, 0.0, 1.0, 0.0]])[:, :, None, None]
    assert strongest(scale, reader, 1).tolist() == [0]
    assert strongest(scale, reader, 3).tolist() == [0, 1, 3]


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
@pytest.mark.parametrize("shortcut", ["3x3", "1x1"])
def test_channels_that_do_nothing_are_the_ones_that_go(name, shortcut):
    """Half of the inner channels have neither scale nor offset, in random places: without them all is as before."""
    torch.manual_seed(0)
    options = {"shortcut": shortcut, "width": 0.125}
    model, pruned = (create_model(name, "softmax", 5, mid_width=w, **options).eval() for w in (1.0, 0.5))
    for block in model.modules():
        for _, norm, _ in getattr(block, "mid_norms", ()):
            norm = getattr(block, norm)
            silent = torch.randperm(norm.num_features)[: norm.num_features // 2]
            with torch.no_grad():
                norm.weight.uniform_(0.5, 1.5)[silent] = 0
                norm.bias.normal_()[silent] = 0
                norm.running_mean.normal_()
                norm.running_var.uniform_(0.5, 2)
    pruned.load_state_dict(pruned_state(pruned, model.state_dict()))
    images = torch.randn(3, 3, 64, 64)
    with torch.no_grad():
        assert torch.allclose(pruned(images), model(images), atol=1e-4)


def test_a_network_of_the_same_width_stays_as_it_is():
    model = create_model(**SMALL)
    state = pruned_state(model, model.state_dict())
    assert all(state[name] is value or torch.equal(state[name], value) for name, value in model.state_dict().items())
    other = {"features.0.weight": torch.ones(3)}
    assert pruned_state(model, other) == other


def test_operations_by_hand():
    """The textbook network at 224 px: 1.81 GMAC, as torchvision and He et al. (Table 1) give it."""
    textbook = {"name": "resnet18", "head": "softmax", "num_classes": 1000, "shortcut": "1x1"}
    assert multiply_adds(textbook, 224) == 1_814_073_344
    # A plain count of one block: 3x3 from 8 to 8 channels, twice, on 16 x 16 places.
    places = {8: 256, 16: 64, 32: 16, 64: 4}  # of the stages for 64 px
    inner = sum(2 * 2 * 9 * c * c * n for c, n in places.items())  # two blocks of two convolutions
    inner -= sum(9 * c * (c // 2) * n for c, n in places.items() if c > 8)  # the first one reads half as many
    assert multiply_adds(SMALL, 64) - multiply_adds({**SMALL, "mid_width": 0.5}, 64) == inner / 2


def test_the_largest_width_for_a_share():
    model, net = create_model(**SMALL), create_model("mobilenet_v3_small", "softmax", 5, width=0.5)
    model.image_size = net.image_size = 64
    width, operations = find_width(model, 0.6), multiply_adds(SMALL, 64)
    shares = [multiply_adds({**SMALL, "mid_width": w}, 64) / operations for w in (width, width + 0.01)]
    assert shares[0] <= 0.6
    assert shares[1] > 0.6 or shares[1] == shares[0]
    with pytest.raises(UserError, match=r"^--share 0.05: 0\.\d\d of the operations are outside"):
        find_width(model, 0.05)
    with pytest.raises(UserError, match="mobilenet_v3_small cannot be pruned: it is no ResNet"):
        find_width(net, 0.5)


def test_the_shorter_schedule():
    config = Config(recipe="modern", epochs=30, image_size=64, rotation=20.0, teacher=("a",), run_dir="a")
    pruned = pruned_config(config, {"threads": 1, "folds": [0], "run_dir": "b"})
    assert (pruned.recipe, pruned.epochs, pruned.image_size, pruned.threads) == ("modern", 10, 64, 1)
    assert (pruned.folds, pruned.run_dir, pruned.teacher) == ((0,), "b", ())
    assert (pruned.lr, pruned.warmup) == pytest.approx((0.02, 1))
    chosen = chosen_settings(pruned)
    assert "optimizer" not in chosen and "warmup" not in chosen  # as the recipe has them
    assert chosen["rotation"] == 20.0  # the default of another recipe
    assert pruned_config(Config(epochs=100), {"epochs": 10}).lr_steps == (2, 5, 8)


def test_a_run_is_pruned_and_trained_further(small_faces_once, tmp_path):
    labels, images = small_faces_once
    tiny = "--image-size 40 --width 0.25 --epochs 1 --batch-size 16 --lr 0.01 --threads 1 --no-plots --folds 3".split()
    data = ["--label-dir", labels, "--image-dir", images, "--cache-dir", tmp_path / "cache"]
    assert call(main, *data, *tiny, "--run-dir", tmp_path / "run") == 0
    prune = [sys.executable, "-m", "tools.prune", tmp_path / "run", "--share", 0.5, "--run-dir", tmp_path / "pruned"]
    command = [*map(str, prune), "--epochs", "1"]
    done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    assert done.stdout.startswith("inner width 0.")
    assert f"initial weights: {tmp_path}/run/fold_3.pt; new: nothing" in done.stdout
    assert (tmp_path / "pruned" / "fold_3.pt").exists()
