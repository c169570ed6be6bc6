"""Turn trained models into ones that judge age by comparison, and evaluate them on the folds they held out.

    python compare.py runs/NAME/fold_0.pt [more.pt ...] --run-dir runs/NAME_compared

For each model a comparator learns, from pairs of the training folds' faces, which of two is older; reference faces of
every group, from the training folds too, then give the posterior over groups, whose prior is how frequent the groups
are there. The results are checkpoints like any other: `python test_code.py runs/NAME_compared/fold_0.pt` evaluates one.
"""

import dataclasses
from pathlib import Path

import torch
import torch.nn.functional as F

from augment import to_network_input
from data.adience import AGE_GROUPS, load_faces
from data.cache import open_cache
from data.loader import FaceDataset, derive_seed, epoch_generator, ordered_batches
from data.split import split_faces
from models.comparison import OLDER, SAME, YOUNGER
from utils import UserError
from utils.checkpoint import build_model, current_commit, fingerprint, load_finished, restore_model, save_checkpoint
from utils.cli import run_script
from utils.config import Parser, add_options, on_this_machine, to_record
from utils.device import Compute, keep_large_buffers
from utils.engine import evaluate
from utils.losses import LOSSES

SETTINGS = "label_dir image_dir cache_dir batch_size device precision threads".split()


def main():
    options = read_command_line()
    keep_large_buffers()
    for path in options.checkpoints:
        compare(path, options)


def compare(path, options):
    """Train and evaluate the comparator of one checkpoint. Raises UserError."""
    content = load_finished(path)
    trained, config = restore_model(path, content)
    if config.compares:
        raise UserError(f"'{path}' judges by comparison already")
    given = {name: value for name, value in vars(options).items() if name in SETTINGS}
    config = on_this_machine(config, {"run_dir": options.run_dir, **given})
    target = Path(options.run_dir) / f"fold_{content['fold']}.pt"
    if target.exists():
        raise UserError(f"'{target}' is there already; choose another --run-dir")
    compute = Compute.choose(config.device, config.precision, config.threads)
    faces, _ = load_faces(config.label_dir, config.image_dir, config.label_policy, config.allow_missing)
    images = open_cache(config.image_dir, faces.path, config.image_size, config.cache_dir)
    if fingerprint(faces, images) != content["data_fingerprint"]:
        raise UserError(f"'{path}' was trained on other faces, labels or pixels than these")
    train_faces, _, test_faces = split_faces(faces, content["fold"], config.val_fraction, config.seed)
    train_set, test_set = (FaceDataset(images, f.index, f.label) for f in (train_faces, test_faces))

    config = dataclasses.replace(config, loss="cross_entropy", decode="argmax", compares=options.references)
    torch.manual_seed(derive_seed(config.seed, content["fold"], 0, 0))
    model = build_model(config)
    model.backbone.load_state_dict(without_head(trained), strict=False)
    model.to(compute.device, memory_format=torch.channels_last)
    features = extract(model.backbone, train_set, config.batch_size, compute)
    generator = epoch_generator(config.seed, content["fold"], 0, 1)
    groups = Groups(train_set.labels)
    learn(model.comparator, features, groups, options.steps, generator)
    known = torch.arange(len(AGE_GROUPS))[:, None].expand(-1, options.references)
    model.set_references(features[groups.draw(known, generator)], groups.counts / groups.counts.sum())
    tested = evaluate(model.eval(), test_set, config.batch_size, compute, LOSSES[config.loss])
    metrics = tested.record()
    target.parent.mkdir(parents=True, exist_ok=True)
    save_checkpoint(
        target,
        {
            **content,
            "config": to_record(config),
            "trained_on": str(compute),
            "commit": current_commit(),
            "model": model.state_dict(),
            "history": [],
            "metrics": metrics,
        },
    )
    before = content["metrics"]
    print(
        f"fold {content['fold']}: by comparison top-1 {metrics['top1']:.2%}, one-off {metrics['one_off']:.2%}, MAE"
        f" {metrics['mae']:.3f}; the model itself {before['top1']:.2%}, {before['one_off']:.2%}, {before['mae']:.3f}"
    )
    print(f"wrote {target}")


def without_head(model):
    """The state of a network but for its last layer, which a comparison does not use."""
    return {name: value for name, value in model.state_dict().items() if not name.startswith("head.")}


@torch.inference_mode()
def extract(backbone, dataset, batch_size, compute):
    """The features (N, F) of every face, as evaluation sees it."""
    backbone.eval()
    found = []
    for images, _ in compute.bring(ordered_batches(dataset, batch_size)):
        with compute.autocast():
            found.append(backbone.features(to_network_input(images)).float())
    return torch.cat(found).clone()


class Groups:
    """Training faces by group, to draw from. labels: int64 (N,). Raises UserError for a group without faces."""

    def __init__(self, labels):
        self.order = labels.cpu().argsort(stable=True)
        self.counts = torch.bincount(labels.cpu(), minlength=len(AGE_GROUPS))
        self.starts = self.counts.cumsum(0) - self.counts
        if (empty := torch.nonzero(self.counts == 0)).numel():
            raise UserError(f"no training face is of group {AGE_GROUPS[int(empty[0])]}: all groups are compared")

    def draw(self, groups, generator):
        """One face of each group named, with replacement: positions of the groups' shape."""
        place = torch.rand(groups.shape, generator=generator, dtype=torch.float64) * self.counts[groups]
        return self.order[self.starts[groups] + place.long()]


def learn(comparator, features, groups, steps, generator, batch_size=512):
    """Teach it pairs whose groups are drawn evenly, and a third more of the same group. groups: a Groups."""
    optimizer = torch.optim.AdamW(comparator.parameters(), 1e-3, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-3, steps)
    comparator.train()
    for _ in range(steps):
        drawn = torch.randint(len(AGE_GROUPS), (2, batch_size), generator=generator)
        drawn[1, : batch_size // 3] = drawn[0, : batch_size // 3]
        first, second = features[groups.draw(drawn, generator)]
        relation = torch.where(drawn[0] == drawn[1], SAME, torch.where(drawn[0] > drawn[1], OLDER, YOUNGER))
        loss = F.cross_entropy(comparator(first, second), relation.to(first.device))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()


def read_command_line():
    parser = Parser(prog="compare.py", description="Judge age by comparison with reference faces.")
    parser.add_argument("checkpoints", nargs="+", metavar="CHECKPOINT", help="fold_0.pt and the like")
    parser.add_argument("--run-dir", required=True, metavar="DIR", help="where the new checkpoints go")
    parser.add_argument("--references", type=int, default=16, metavar="N", help="faces of each group (default 16)")
    parser.add_argument("--steps", type=int, default=3000, metavar="N", help="of the comparator's training")
    add_options(parser, SETTINGS, defaults_from="the checkpoint")
    options = parser.parse_args()
    for name in ("references", "steps"):
        if getattr(options, name) < 1:
            raise UserError(f"--{name} {getattr(options, name)}: a number from 1 upwards is wanted")
    return options


if __name__ == "__main__":
    run_script(main)
