"""The model card: what a model is, what it was trained on, how good it is and what it is not good for.

After Mitchell et al., "Model Cards for Model Reporting", FAT* 2019. Markdown, in which text from the data stays text.
"""

import re
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from evaluation.calibration import calibration_results
from evaluation.metrics import METRICS, per_class
from evaluation.predictions import Predictions
from evaluation.subgroups import LEAST_FACES, LEAST_PEOPLE, SIGNIFICANCE
from models.network import Network, parameter_count, size_mib
from utils.cli import printable
from utils.files import write_text
from utils.foreign import read_text

TEMPLATES = Path(__file__).parent / "templates"
MARK = "<!-- model card of tools.export -->"  # the first line of our files
CARD_LIMIT = 16  # MiB
WORST_GROUPS = 5
FORMS = {"torch": "PyTorch, 32 bits", "onnx": "ONNX, 32 bits", "int8": "ONNX, 8 bits"}
# What Markdown or HTML gives a meaning to within a line. A colon, an at sign and the dot of a domain make links.
SPECIAL = re.compile(r"[\\`*_{}\[\]<>#|~&!$:@^]|\.(?=[^\W\d_])")


@dataclass(frozen=True)
class CardEntry:
    """What a card says of one model.

    Attributes:
        name: of its file.
        model: the Network, with its record.
        licence: the terms of its training data, in words.
        predictions: Predictions for the faces of the fold that it held out; None where they are not there.
        groups: the table of `subgroups` of these; None where they are not there.
        results: {form: {quantity: value}}, the forms being those of FORMS and the quantities mib, one (seconds for one
            face), batch (faces per second), agreement (share of faces with PyTorch's top-1) and names of METRICS.
    """

    name: str
    model: Network
    licence: str
    predictions: Predictions | None = None
    groups: pd.DataFrame | None = None
    results: dict = field(default_factory=dict)


def write_card(path, entries):
    """Write the model card of one or more models. Raises UserError where it cannot be written."""
    write_text(path, model_card(entries))


def is_card(path):
    """Whether a file is an earlier model card. Raises UserError where it cannot be read."""
    return read_text(path, CARD_LIMIT).startswith(MARK + "\n")


def model_card(entries):
    """The text of a model card.

    Args:
        entries: a list of CardEntry, whose models have the same classes.
    """
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        finalize=escape,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    shown = {
        "class_names": list(entries[0].model.class_names),
        "sizes": list(dict.fromkeys(entry.model.image_size for entry in entries)),
        "licences": list(dict.fromkeys(entry.licence for entry in entries)),
        "least": (LEAST_FACES, LEAST_PEOPLE),
        "significance": SIGNIFICANCE,
        "titles": [metric.title for metric in METRICS.values()],
    }
    text = environment.get_template("model_card.md").render(**shown, entries=[describe(entry) for entry in entries])
    return f"{MARK}\n{text}"


def escape(value):
    """Text as Markdown that shows it: on one line, and without markup. Every value of the template passes here."""
    return SPECIAL.sub(lambda found: "\\" + found.group(), printable(value))


def describe(entry):
    """The texts of one model, as the template shows them."""
    record, model = entry.model.record, entry.model
    config = record["config"]
    return {
        "name": entry.name,
        "fold": record["fold"],
        "network": config.get("model", type(model).__name__),
        "head": model.description["head"],
        "parameters": f"{parameter_count(model):,}",
        "mib": f"{size_mib(model):.2f}",
        "size": model.image_size,
        "framing": [f"{share:.2f}" for share in (record.get("framing") or [])[:4]],
        "train_faces": f"{record['train_faces']:,}",
        "train_people": f"{len(record['train_people']):,}",
        "twins": len(record["twins"]),
        "recipe": f"{config.get('recipe', 'unknown')}, {config.get('epochs', '?')} epochs",
        "loss": config.get("loss", "unknown"),
        "seed": config.get("seed", "unknown"),
        "decoder": record["decoder"],
        "commit": record["commit"] or "unknown",
        "versions": ", ".join(f"{name} {version}" for name, version in record["versions"].items()),
        "metrics": [metric.show(record["metrics"][name]) for name, metric in METRICS.items()],
        "temperature": show_temperature(record.get("temperature")),
        "calibration": describe_calibration(entry),
        "classes": describe_classes(entry.predictions),
        "groups": describe_groups(entry.groups),
        "forms": [describe_form(*form) for form in entry.results.items()],
    }


def show_temperature(temperature):
    return "none is stored" if temperature is None else f"{temperature:.3f}"


def describe_calibration(entry):
    """The expected calibration error, as text; None without predictions."""
    if entry.predictions is None:
        return None
    own = entry.predictions
    found = calibration_results(own.labels, own.predicted, own.probabilities, entry.model.record.get("temperature"))
    calibrated = "" if found["ece_calibrated"] is None else f", {found['ece_calibrated']:.2%} with the temperature"
    return f"{found['ece']:.2%}{calibrated}"


def describe_classes(predictions):
    """(name, faces, top-1, one-off) of each class, as texts; empty without predictions."""
    if predictions is None:
        return []
    columns = per_class(predictions.confusion)
    return [
        (name, f"{faces:,}", percent(exact), percent(near))
        for name, faces, exact, near in zip(predictions.faces.class_names, *columns, strict=True)
    ]


def describe_groups(groups):
    """The groups that are furthest below all other faces: dicts of texts, the worst first; None without a table."""
    if groups is None:
        return None
    others = groups[groups.column != "label"]  # the classes have a table of their own
    below = others[others.gap < 0].sort_values("gap").head(WORST_GROUPS)
    return [
        {
            "column": row.column,
            "group": row.group,
            "faces": f"{row.faces:,}",
            "top1": f"{row.top1:.2%}",
            "gap": f"{100 * row.gap:+.1f}",
            "p": "below 0.001" if row.p_corrected < 0.001 else f"{row.p_corrected:.3f}",
            "real": "yes" if row.marked else "not shown",
        }
        for row in below.itertuples()
    ]


def describe_form(form, row):
    """One form's size, speed and metrics, as texts."""
    return {
        "name": FORMS[form],
        "mib": f"{row['mib']:.2f}",
        "one": f"{1000 * row['one']:.1f}",
        "batch": f"{row['batch']:,.0f}",
        "agreement": f"{row['agreement']:.1%}" if "agreement" in row else "-",
        "metrics": [metric.show(row[name]) if name in row else "-" for name, metric in METRICS.items()],
    }


def percent(fraction):
    return "-" if np.isnan(fraction) else f"{fraction:.2%}"
