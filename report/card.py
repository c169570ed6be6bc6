"""The model card: what a model is, what it was trained on, how good it is and what it is not good for.

After Mitchell et al., "Model Cards for Model Reporting", FAT* 2019. Markdown, in which text from the data stays text.
"""

import re
from pathlib import Path

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from evaluation import subgroups
from evaluation.evaluation import FACE_COLUMNS
from evaluation.leaks import learned_from, origin_note, trained_people
from evaluation.metrics import METRICS, per_class
from models.checkpoint import NO_FOLD
from models.network import parameter_count, size_mib
from utils.cli import printable
from utils.reading import read_text

TEMPLATES = Path(__file__).parent / "templates"
MARK = "<!-- model card of tools.export -->"  # the first line of our files
CARD_LIMIT = 16  # MiB
WORST_GROUPS = 5
YEARS = ("mae_years", "cs5", "bias_years")
# Characters with a meaning in a line of Markdown or HTML. A colon, an at sign and the dot of a domain make links.
SPECIAL = re.compile(r"[\\`*_{}\[\]<>#|~&!$:@^]|\.(?=[^\W\d_])")


def is_card(path):
    """Whether a file is an earlier model card. Raises UserError if it cannot be read."""
    return read_text(path, CARD_LIMIT).startswith(MARK + "\n")


def model_card(evaluations, licences, results):
    """The text of a model card.

    Args:
        evaluations: an Evaluation of each model, with its name and the model. The faces are of the held-out fold; there
            are none if the predictions are not at hand. The models have the same classes.
        licences: the terms of each model's training data, in words.
        results: for each model {form: {quantity: value}}. The forms are "torch", "onnx" and "int8"; the quantities
            mib, agreement (fraction of faces with PyTorch's top-1) and names of METRICS.
    """
    recorded = [evaluation.model.record["metrics"] for evaluation in evaluations]
    text = template("model_card.md", finalize=escape).render(
        models=[describe(*model) for model in zip(evaluations, results, strict=True)],
        classes=evaluations[0].classes,
        licences=dict.fromkeys(licences),
        METRICS={name: metric for name, metric in METRICS.items() if any(name in values for values in recorded)},
        subgroups=subgroups,
        show=show,
    )
    return f"{MARK}\n{text}\n"


def template(name, **settings):
    """A template of this folder, in which every name has to be known; `settings` are of Jinja's Environment."""
    strict = {"undefined": StrictUndefined, "trim_blocks": True, "lstrip_blocks": True}
    return Environment(loader=FileSystemLoader(TEMPLATES), **strict, **settings).get_template(name)


def escape(value):
    """Text as Markdown that shows it: on one line, and without markup. Every value of the template passes here."""
    return SPECIAL.sub(lambda found: "\\" + found.group(), printable(value))


def show(value, form):
    """A number as text; a missing one as a dash."""
    return "-" if value is None or value != value else format(value, form)


def errors_in_years(evaluation, coarse):
    """Rows (column, group, faces, {metric of YEARS: value}) by age and by each further column of few values.

    Args:
        evaluation: an Evaluation whose classes are ages.
        coarse: the same by decade, where its classes are many.
    """
    if not set(YEARS) <= set(evaluation.metric_names):
        return []
    table, names = evaluation.faces.table, np.array(coarse.classes.names)
    others = subgroups.columns_of_few_values(table, FACE_COLUMNS)
    columns = {"age": names[coarse.labels], **{name: table[name].fillna("").to_numpy() for name in others}}
    found, rows = {name: evaluation.per_face(name) for name in YEARS}, []
    for column, groups in columns.items():
        order = names if column == "age" else sorted(set(groups) - {""})
        for group, mask in ((group, groups == group) for group in order):
            if mask.sum() >= subgroups.LEAST_FACES:
                values = {name: METRICS[name].finish(each[mask].mean()) for name, each in found.items()}
                rows.append((column, group, int(mask.sum()), values))
    return rows


def describe(evaluation, forms):
    """The values of one model for the template: its record, and the numbers that follow from its predictions."""
    model, found = evaluation.model, {"classes": [], "groups": None, "calibration": None, "years": []}
    if len(evaluation):
        table, coarse, judged_by = subgroups.subgroups(evaluation), evaluation.coarse(), evaluation.judged_by
        lower = METRICS[judged_by].lower_is_better
        is_worse = table.gap > 0 if lower else table.gap < 0
        worse = table[is_worse & (table.column != "label")]  # the classes have a table of their own
        found = {
            "classes": list(zip(coarse.classes.names, *per_class(coarse.confusion), strict=True)),
            "judged_by": judged_by,
            "groups": worse.sort_values("gap", ascending=not lower).head(WORST_GROUPS).to_dict("records"),
            "calibration": evaluation.calibration(),
            "years": errors_in_years(evaluation, coarse),
        }
    return {
        "name": evaluation.name,
        "record": model.record,
        "people": len(trained_people(model.record)),
        "origin": origin_note(model.record),
        "learned_from": learned_from(model.record),
        "whole": model.record["fold"] == NO_FOLD,
        "held_out": "no face" if model.record["fold"] == NO_FOLD else f"fold {model.record['fold']}",
        "head": model.description["head"],
        "parameters": parameter_count(model),
        "mib": size_mib(model),
        "size": model.image_size,
        "forms": forms,
        **found,
    }
