"""What training made of a network's parameters, beside untrained ones of the same kind."""

import numpy as np
import torch

from models import create_model
from report.charts import histogram
from report.plots import flat_parameters, layer_groups

SHRUNK, GROWN = 0.2, 5.0  # ratios of the spread to the untrained one that deserve a word


def parameters(study):
    """The parameters of the first model, by group of layers; None without a model that can be made anew."""
    model = next((one.model for one in study.answers if one.model is not None and one.model.description), None)
    if model is None:
        return None
    name = next(one.name for one in study.answers if one.model is model)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        fresh = create_model(**model.description)
    untrained = layer_groups(fresh)
    rows = [
        group_row(key, flat_parameters(part), flat_parameters(untrained[key]))
        for key, part in layer_groups(model).items()
    ]
    return {"model": name, "rows": rows, "reading": reading(rows)}


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
