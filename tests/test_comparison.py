"""Age by comparison: the posterior by hand, and the script on a small model."""

import math
import subprocess
import sys

import pytest
import torch
from conftest import ROOT
from torch import nn

from compare import Groups
from models.comparison import ComparisonNet
from utils import UserError


class Oracle(nn.Module):
    """Compares the first feature of two faces: 0.8 for what is true, 0.1 for each of the others."""

    def forward(self, first, second):
        relation = torch.sign(first[:, 0] - second[:, 0]).long() + 1
        return torch.log(torch.full((len(first), 3), 0.1).scatter(1, relation[:, None], 0.8))


@pytest.fixture
def net():
    net = ComparisonNet(nn.Identity(), features=1, classes=3, per_group=2)
    net.comparator = Oracle()
    net.set_references(torch.arange(3.0)[:, None, None].expand(3, 2, 1), torch.tensor([0.5, 0.25, 0.25]))
    return net


def test_posterior_by_hand(net):
    # A face of group 1 is older than 0, of the group of 1, younger than 2. If it were of group 0, two of these three
    # (to 0 and to 1) would be other than said; so too for 2; the third comparison agrees.
    logits = net.log_posterior(torch.tensor([[1.0]]))[0]
    right, wrong = 3 * math.log(0.8), math.log(0.8) + 2 * math.log(0.1)
    priors = [math.log(0.5), math.log(0.25), math.log(0.25)]
    expected = [prior + said for prior, said in zip(priors, (wrong, right, wrong), strict=True)]
    assert logits.tolist() == pytest.approx(expected, rel=1e-5)


def test_the_prior_decides_where_comparisons_do_not(net):
    # A face that seems of the groups 0 and 1 alike, older than 0 and younger than 1: by hand, group 0 agrees with
    # "younger than 1" and "younger than 2", group 1 with "older than 0" and "younger than 2"; so the frequent one wins.
    logits = net.log_posterior(torch.tensor([[0.5]]))[0]
    assert (logits[0] - logits[1]).item() == pytest.approx(math.log(2), rel=1e-5)
    assert logits.argmax() == 0


def test_every_group_is_found(net):
    assert net.log_posterior(torch.arange(3.0)[:, None]).argmax(1).tolist() == [0, 1, 2]


def test_drawn_faces_are_of_the_groups_asked_for():
    labels = torch.tensor([3, 0, 1, 2, 3, 4, 5, 6, 7, 0])
    asked = torch.randint(8, (50, 4), generator=torch.Generator().manual_seed(0))
    drawn = Groups(labels).draw(asked, torch.Generator().manual_seed(1))
    assert torch.equal(labels[drawn], asked)
    assert set(drawn[asked == 3].tolist()) == {0, 4}
    with pytest.raises(UserError, match="no training face is of group 60"):
        Groups(labels[labels < 7])


def test_the_script_makes_checkpoints_like_any_other(small_faces_once, tmp_path):
    labels, images = map(str, small_faces_once)
    where = ["--label-dir", labels, "--image-dir", images, "--cache-dir", str(tmp_path / "cache")]
    tiny = "--image-size 40 --epochs 1 --batch-size 16 --lr 0.01 --folds 3 --loss coral --no-plots".split()

    def run(script, *arguments):
        done = subprocess.run([sys.executable, ROOT / script, *arguments], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    run("main.py", *where, *tiny, "--run-dir", str(tmp_path / "run"))
    target = str(tmp_path / "compared")
    out = run("compare.py", str(tmp_path / "run" / "fold_3.pt"), "--run-dir", target, "--steps", "20")
    said = out.split("by comparison top-1 ")[1].split(",")[0]
    tested = run("test_code.py", f"{target}/fold_3.pt")
    assert f"eval accuracy: {said}" in tested
