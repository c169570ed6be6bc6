"""Fewer channels within the blocks: which stay, and that the rest computes the same."""

import pytest
import torch
from conftest import call

import main
from models import create_model
from models.checkpoint import load_model
from models.pruning import pruned_state, strongest

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


def test_a_run_is_pruned_and_trained_further(small_faces_once, tmp_path, capsys):
    """The README's command: the settings of a run, its weights, and fewer channels within the blocks."""
    labels, images = small_faces_once
    tiny = "--image-size 40 --width 0.25 --epochs 1 --batch-size 16 --lr 0.01 --threads 1 --no-plots".split()
    data = ["--label-dir", labels, "--image-dir", images, "--cache-dir", tmp_path / "cache"]
    run, pruned = tmp_path / "run", tmp_path / "pruned"
    assert call(main, *data, *tiny, "--folds", 3, "--run-dir", run) == 0
    smaller = ["--config", run / "config.json", "--init-from", run, "--mid-width", 0.5, "--folds", 3]
    assert call(main, *smaller, "--cache-dir", tmp_path / "cache", "--run-dir", pruned) == 0
    assert f"initial weights: {run}/fold_3.pt; new: nothing" in capsys.readouterr().out
    state = load_model(pruned / "fold_3.pt").state_dict()
    assert state["layer1.0.conv1.weight"].shape[:2] == (8, 16)  # half of a quarter of 64 channels within the block
