"""Turn trained models into models that estimate age by comparison, and evaluate them on their held-out folds.

    python -m tools.comparator runs/NAME/fold_0.pt [more.pt ...] --run-dir runs/NAME_compared

A comparator learns from pairs of training faces which of the two is older (Zhang et al., BMVC 2017).
"""

from pathlib import Path

import torch
import torch.nn.functional as F

from augment.pipeline import to_network_input
from data import load_data, open_cache, split_faces
from data.dataset import FaceDataset, ordered_batches
from evaluation.evaluate import evaluate
from evaluation.metrics import METRICS
from models.checkpoint import load_model, save_model
from models.comparison import ComparisonHead, relation
from training.config import FIELDS, recorded_config
from training.provenance import provenance
from utils.cli import printable, run_script
from utils.device import Runtime
from utils.errors import UserError
from utils.options import Parser, add_options, check_limits, default_of
from utils.reading import exists
from utils.seeds import Stream, derive_seed

SETTINGS = "label_dir label_file image_dir cache_dir batch_size device precision threads".split()


def main():
    parser = Parser(prog="python -m tools.comparator", description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="+", metavar="MODEL", help="model files: fold_0.pt and the like")
    parser.add_argument("--run-dir", required=True, metavar="DIR", help="folder for the new model files")
    parser.add_argument("--steps", type=int, default=3000, metavar="N", help="training steps (default: 3000)")
    add_options(parser, [FIELDS[name] for name in SETTINGS], default_text="from the model file")
    parser.set_defaults(cache_dir=default_of(FIELDS["cache_dir"]))  # a record does not choose where to write
    options = parser.parse_args()
    check_limits("--steps", options.steps, {"low": 1})
    for path in options.models:
        compare(path, options)


def compare(path, options):
    """Train, evaluate and save the comparator of one model. Raises UserError."""
    model = load_model(path)
    record, fold = model.record, model.record["fold"]
    target = Path(options.run_dir) / f"fold_{fold}.pt"
    if exists(target):
        raise UserError(f"'{target}' exists; choose another --run-dir")
    config = recorded_config(path, record, {name: getattr(options, name) for name in SETTINGS if name in options})
    runtime = Runtime.setup(config.device, config.precision, config.threads)
    faces, _ = load_data(**config.data_source)
    cache = open_cache(config.image_dir, faces.table.path, model.image_size, config.cache_dir)
    if faces.fingerprint(cache.sha256) != record["data_fingerprint"]:
        raise UserError(f"'{path}' was trained on other faces, labels or pixels than these")
    train, _, test = split_faces(faces, fold, config.val_fraction, config.seed)
    seed = derive_seed(config.seed, fold, 0, Stream.COMPARATOR)
    torch.manual_seed(seed)
    model.fc = ComparisonHead(model.head.in_features, len(model.classes))
    model.description["head"] = "comparison"
    model.to(runtime.device, memory_format=torch.channels_last)
    with torch.no_grad(), runtime.autocast():
        batches = ordered_batches(FaceDataset(cache.images, train), config.batch_size)
        inputs = (to_network_input(images.to(runtime.device), model.mean, model.std) for images, _ in batches)
        features = torch.cat([model.features(images).float() for images in inputs])
    generator = torch.Generator().manual_seed(seed)
    train_head(model.head, features, torch.tensor(train.labels), model.classes, options.steps, generator)
    metrics = evaluate(model, FaceDataset(cache.images, test), config.batch_size, runtime).metrics()
    save_model(target, model, {**record, "decoder": "argmax", "metrics": metrics, "history": [], **provenance(runtime)})
    for name, values in (("by comparison", metrics), ("the model itself", record["metrics"])):
        shown = ", ".join(f"{metric.title} {metric.show(values.get(key))}" for key, metric in METRICS.items())
        print(f"fold {fold} {name}: {shown}")
    print(f"wrote {printable(target)}")


def train_head(head, features, labels, classes, steps, generator, batch_size=512):
    """Train a ComparisonHead on features (N, F) with labels (N,), and draw its references. Raises UserError.

    The classes of a pair are drawn uniformly, and a third of the pairs are of one class on purpose.
    """
    counts = torch.bincount(labels, minlength=len(classes))
    if not counts.all():
        name = classes.names[counts.tolist().index(0)]
        raise UserError(f"no training face has the class {name}: all classes are compared")
    optimizer = torch.optim.AdamW(head.comparator.parameters(), 1e-3, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-3, steps)
    head.comparator.train()
    for _ in range(steps):
        drawn = torch.randint(len(classes), (2, batch_size), generator=generator)
        drawn[1, : batch_size // 3] = drawn[0, : batch_size // 3]
        pairs = torch.cat([*features[draw_faces(labels, drawn, generator)]], dim=1)  # (B, 2F)
        loss = F.cross_entropy(head.comparator(pairs), relation(*drawn).to(pairs.device))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    drawn = torch.arange(len(classes))[:, None].expand(head.references.shape[:2])
    head.references.copy_(features[draw_faces(labels, drawn, generator)])
    head.log_prior.copy_((counts / counts.sum()).log())


def draw_faces(labels, classes, generator):
    """The position of one face of each of these classes, int64 of any shape, drawn with replacement."""
    counts = torch.bincount(labels)
    number = torch.rand(classes.shape, generator=generator, dtype=torch.float64) * counts[classes]
    return labels.argsort(stable=True)[(counts.cumsum(0) - counts)[classes] + number.long()]


if __name__ == "__main__":
    run_script(main)
