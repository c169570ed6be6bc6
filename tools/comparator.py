"""Turn trained models into ones that estimate age by comparison, and evaluate them on the folds they held out.

    python -m tools.comparator runs/NAME/fold_0.pt [more.pt ...] --run-dir runs/NAME_compared

For each model a comparator learns, from pairs of the training folds' faces, which of two is older. Reference faces of
every class, from the training folds too, then give the posterior over classes (Zhang et al., BMVC 2017), whose prior
is the frequency of the classes there. `python test_code.py runs/NAME_compared/fold_0.pt` evaluates the result.
"""

from pathlib import Path

from utils.cli import printable, run_script, start_script

if __name__ == "__main__":
    start_script()  # before the imports below, which take a while

from training.config import FIELDS
from utils.errors import UserError
from utils.foreign import exists
from utils.options import Parser, add_options, default_of

SETTINGS = "label_dir label_file image_dir batch_size".split()
MACHINE = "device precision threads".split()


def read_command_line():
    parser = Parser(prog="python -m tools.comparator", description="Estimate age by comparison with reference faces.")
    parser.add_argument("models", nargs="+", metavar="MODEL", help="model files: fold_0.pt and the like")
    parser.add_argument("--run-dir", required=True, metavar="DIR", help="folder for the new model files")
    parser.add_argument("--references", type=int, default=16, metavar="N", help="faces of each class (default: 16)")
    parser.add_argument("--steps", type=int, default=3000, metavar="N", help="training steps (default: 3000)")
    add_options(parser, [FIELDS[name] for name in SETTINGS], default_text="from the model file")
    add_options(parser, [FIELDS[name] for name in ("cache_dir", *MACHINE)])
    parser.set_defaults(cache_dir=default_of(FIELDS["cache_dir"]))
    options = parser.parse_args()
    for name, most in (("references", 1000), ("steps", 10_000_000)):
        if not 1 <= getattr(options, name) <= most:
            raise UserError(f"--{name} {getattr(options, name)}: expected a number from 1 to {most:,}")
    if len({Path(model).resolve() for model in options.models}) < len(options.models):
        raise UserError("a model is named twice; name each one once")
    return options


def check_arguments():
    read_command_line()


if __name__ == "__main__":
    run_script(check_arguments)  # before torch is imported

import torch
import torch.nn.functional as F

from augment.pipeline import to_network_input
from data import load_data, open_cache, split_faces
from data.dataset import FaceDataset, ordered_batches, prefetch
from evaluation.evaluate import evaluate
from evaluation.metrics import METRICS
from models import create_model
from models.checkpoint import load_model, save_model
from models.comparison import OLDER, SAME, YOUNGER, without_head
from training.config import recorded_config
from training.run import provenance
from utils.device import Compute, keep_large_buffers
from utils.seeds import Stream, derive_seed, make_generator


def main():
    options = read_command_line()
    keep_large_buffers()
    machine = {name: getattr(options, name) for name in MACHINE if name in options}
    compute = Compute.choose(**machine)
    for path in options.models:
        compare(path, options, compute)


def compare(path, options, compute):
    """Train and evaluate the comparator of one model. Raises UserError."""
    trained = load_model(path)
    record = trained.record
    if trained.description["name"] == "comparison":
        raise UserError(f"'{path}' estimates age by comparison already")
    target = Path(options.run_dir) / f"fold_{record['fold']}.pt"
    if exists(target):
        raise UserError(f"'{target}' exists; choose another --run-dir")
    given = {name: getattr(options, name) for name in (*SETTINGS, *MACHINE) if name in options}
    config = recorded_config(path, record, {"cache_dir": options.cache_dir, **given})
    faces, _ = load_data(**config.data_source)
    images = open_cache(config.image_dir, faces.table.path, trained.image_size, config.cache_dir)
    if faces.fingerprint(images) != record["data_fingerprint"]:
        raise UserError(f"'{path}' was trained on other faces, labels or pixels than these")
    train, _, test = split_faces(faces, record["fold"], config.val_fraction, config.seed)
    if not len(test):
        raise UserError(f"'{path}' held out fold {record['fold']}, of which there is no face here")

    key = (config.seed, record["fold"], 0, Stream.COMPARATOR)
    torch.manual_seed(derive_seed(*key))
    model = make_comparison(trained, options.references).to(compute.device, memory_format=torch.channels_last)
    features = extract_features(model, FaceDataset(images, train), config.batch_size, compute)
    sampler, generator = ClassSampler(train.labels, train.class_names), make_generator(*key)
    train_comparator(model.head.comparator, features, sampler, options.steps, generator)
    classes = torch.arange(len(train.class_names))[:, None].expand(-1, options.references)
    model.head.set_references(features[sampler.draw(classes, generator)], sampler.counts / sampler.counts.sum())
    metrics = evaluate(model, FaceDataset(images, test), config.batch_size, compute).metrics()
    new = {"decoder": "argmax", "metrics": metrics, "history": [], **provenance(compute)}
    save_model(target, model, {**record, **new})
    for name, values in (("by comparison", metrics), ("the model itself", record["metrics"])):
        shown = ", ".join(f"{metric.title} {metric.show(values[key])}" for key, metric in METRICS.items())
        print(f"fold {record['fold']} {name}: {shown}")
    print(f"wrote {printable(target)}")


def make_comparison(trained, references):
    """A comparison network with the trained network's features and new weights of its own."""
    classes = len(trained.class_names)
    model = create_model("comparison", "softmax", classes, backbone=trained.description, references=references)
    model.backbone.load_state_dict(without_head(trained.state_dict()))
    model.class_names, model.image_size = trained.class_names, trained.image_size
    return model


@torch.inference_mode()
def extract_features(model, dataset, batch_size, compute):
    """The features (N, F) of every face, as in evaluation."""
    model.eval()
    parts = []
    for images, _ in prefetch(ordered_batches(dataset, batch_size), compute.device):
        with compute.autocast():
            parts.append(model.features(to_network_input(images, model.mean, model.std)).float())
    return torch.cat(parts).clone()


class ClassSampler:
    """Draws faces of given classes. Raises UserError for a class without faces.

    Args:
        labels: int64 (N,), of the training faces.
    """

    def __init__(self, labels, class_names):
        labels = torch.as_tensor(labels)
        self.order = labels.argsort(stable=True)
        self.counts = torch.bincount(labels, minlength=len(class_names))
        self.starts = self.counts.cumsum(0) - self.counts
        if (empty := torch.nonzero(self.counts == 0)).numel():
            raise UserError(f"no training face has the class {class_names[int(empty[0])]}: all classes are compared")

    def draw(self, classes, generator):
        """The position of one face of each class given, with replacement; the result has the same shape."""
        place = torch.rand(classes.shape, generator=generator, dtype=torch.float64) * self.counts[classes]
        return self.order[self.starts[classes] + place.long()]


def train_comparator(comparator, features, sampler, steps, generator, batch_size=512):
    """Train on pairs of uniformly drawn classes, a third of them of the same class on purpose."""
    optimizer = torch.optim.AdamW(comparator.parameters(), 1e-3, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-3, steps)
    num_classes = len(sampler.counts)
    comparator.train()
    for _ in range(steps):
        drawn = torch.randint(num_classes, (2, batch_size), generator=generator)
        drawn[1, : batch_size // 3] = drawn[0, : batch_size // 3]
        first, second = features[sampler.draw(drawn, generator)]
        relation = torch.where(drawn[0] == drawn[1], SAME, torch.where(drawn[0] > drawn[1], OLDER, YOUNGER))
        loss = F.cross_entropy(comparator(first, second), relation.to(first.device))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()


if __name__ == "__main__":
    run_script(main)
