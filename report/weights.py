"""What training made of a network's parameters, beside untrained ones of the same kind."""

import numpy as np
import torch

from models import create_model
from models.network import layer_groups
from report.charts import histogram
from utils.cli import printable

SHRUNK, GROWN = 0.2, 5.0  # ratios of the spread to the untrained one that deserve a word


def parameters(study):
    """The parameters of the first model, by group of layers; None without a model that can be made anew."""
    for answers in study.answers:
        if groups := compared_values(answers.model):
            rows = [group_row(name, *values) for name, values in groups.items()]
            return {"model": printable(answers.name), "rows": rows, "reading": reading(rows)}
    return None


def compared_values(model):
    """{group of layers: (values (N,), those of an untrained network)}; {} without a model that can be made anew."""
    if model is None or not model.description:
        return {}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        untrained = layer_groups(create_model(**model.description))
    return {name: (flat_values(part), flat_values(untrained[name])) for name, part in layer_groups(model).items()}


def flat_values(module):
    return torch.cat([p.detach().flatten().float().cpu() for p in module.parameters()]).numpy()


def group_row(name, values, fresh):
    ratio = float(values.std() / max(fresh.std(), 1e-12))
    return {
        "name": name,
        "count": f"{len(values):,}",
        "std": f"{values.std():.4f}",
        "fresh_std": f"{fresh.std():.4f}",
        "verdict": verdict(values, ratio),
        "histogram": histogram(values, fresh),
    }


def verdict(values, ratio):
    if not np.isfinite(values).all():
        return "not finite"
    if ratio < SHRUNK:
        return "dead: nearly all weights have shrunk to zero"
    return "exploding: far larger than at the start" if ratio > GROWN else "healthy"


def reading(rows):
    """What to read from the histograms, in words."""
    notable = [f"{row['name']} is {row['verdict']}" for row in rows if row["verdict"] != "healthy"]
    if notable:
        return f"To look at: {'; '.join(notable)}."
    return "No group of layers is dead or exploding: each spread is within a factor of five of the untrained one."
