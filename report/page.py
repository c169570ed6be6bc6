"""The HTML report: one file that a browser opens without a server, a network or anything beside it.

Nothing in it is fetched, and its policy forbids the browser to fetch: styles and script are allowed by their hashes.
Text from outside is escaped, or reaches the script as JSON and the page as text.
"""

import base64
import hashlib
import json
from pathlib import Path

import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from report import content, gallery, labels
from report.figures import draw_study
from report.weights import parameters
from utils.files import check_output, write_csv, write_text
from utils.foreign import open_regular

TEMPLATES = Path(__file__).parent / "templates"
GENERATOR = "age groups report"  # marks the page as ours
BUDGET = 25_000_000  # bytes of the page
MOST_FACES = 20_000  # mistakes in the gallery
MARGIN = 4000  # bytes for the JPEG header and the numbers that are not known before
TEXT_SHARE = 0.7  # of the page at most, the rest is for pictures
SUSPECTS_SHOWN, TWINS_SHOWN = 200, 100
SUSPECTS_FILE = "suspects.csv"


def write_report(path, study, formats=(), budget=BUDGET):
    """Write the HTML report, and beside it suspects.csv and the plots.

    Args:
        path: the file; an earlier report is replaced once the new one is complete.
        study: the Study.
        formats: names in plots.FORMATS, of the plots; none without.
        budget: the largest size of the page, in bytes. Thumbnails are made to fit.

    Returns:
        A dict with bytes, mistakes, shown (how many of them are in the gallery), side (of a thumbnail, in pixels) and
        missing (how many photographs could not be read).

    Raises:
        UserError: the file cannot be written, or is there and is none of ours.
    """
    check_report(path)
    suspects = labels.suspects(study)
    sections = make_sections(study, suspects)
    faces = make_faces(study, suspects, sections, budget)
    page = render(sections, faces)
    write_text(path, page)
    if suspects is not None:
        write_csv(Path(path).with_name(SUSPECTS_FILE), suspects)
    if formats:
        draw_study(Path(path).parent, study, sections, formats)
    return {"bytes": len(page.encode()), **faces["summary"]}


def check_report(path):
    """Refuse to replace a page or a list of suspects that is somebody else's. Raises UserError."""
    check_output(path, lambda own: starts_with(own, f'<meta name="generator" content="{GENERATOR}">'), "our report")
    beside, header = Path(path).with_name(SUSPECTS_FILE), ",".join(labels.COLUMNS)
    check_output(beside, lambda own: starts_with(own, header), "our list of suspect labels")


def starts_with(path, mark):
    with open_regular(path, limit_mib=1024) as file:
        return mark.encode() in file.read(1000)


def make_sections(study, suspects):
    """The content of the page apart from its faces."""
    return {
        "title": study.title,
        "facts": study.facts,
        "commands": study.commands,
        "notes": study.notes,
        "results": content.results(study),
        "confusion": content.confusion(study),
        "calibration": content.calibration(study),
        "groups": content.groups(study),
        "training": content.training(study),
        "parameters": parameters(study),
        "mean_maps": gallery.mean_maps(study),
        "suspects": [],
        "suspects_count": 0 if suspects is None else len(suspects),
        "twins": labels.twins(study),
    }


def make_faces(study, suspects, sections, budget):
    """The gallery's data and pictures for the script; adds the lists of suspects and twins to the sections.

    Returns:
        A dict with data, pictures and summary.
    """
    if not study.answers:
        return {"data": {}, "pictures": {}, "summary": no_summary()}
    table, mistakes = gallery.choose_faces(study, MOST_FACES)
    data = face_data(study, table, gallery.saliency_maps(study, table), suspects)
    shorten(data, len(to_json(data)), TEXT_SHARE * budget)
    table = table.head(len(data["faces"]["path"]))
    listed, keys = list_pictures(study, table, suspects, sections["twins"])
    sections["suspects"] = labels.suspect_rows(suspects, keys, SUSPECTS_SHOWN)
    add_pictures(sections["twins"], keys)
    data["faces"]["picture"] = [keys[path] for path in table.path]
    text = render(sections, {"data": data, "pictures": {}, "summary": no_summary()})
    pictures = gallery.make_thumbnails(listed, max(0, budget - len(text.encode()) - MARGIN))
    keep_faces(data["faces"], [number < len(pictures["scans"]) for number in data["faces"]["picture"]])
    shown = sum(a != b for a, b in zip(data["faces"]["label"], data["faces"]["prediction"], strict=True))
    missing = sum(scan is None for scan in pictures["scans"])
    summary = {"mistakes": mistakes, "shown": shown, "side": pictures["side"], "missing": missing}
    return {"data": data, "pictures": pictures, "summary": summary}


def shorten(data, length, most):
    """Leave out the last faces where the text alone, of `length` bytes, is more than `most`."""
    count = len(data["faces"]["path"])
    if length > most:
        keep_faces(data["faces"], [k < count * most / length for k in range(count)])


def keep_faces(columns, kept):
    """Keep some faces of the columns; `kept` is a bool for each."""
    for name, column in columns.items():
        columns[name] = [value for value, keep in zip(column, kept, strict=True) if keep]


def no_summary():
    return {"mistakes": 0, "shown": 0, "side": 0, "missing": 0}


def face_data(study, table, maps, suspects):
    """What the script knows about the faces."""
    probabilities = [
        study.answers[row.model].predictions.probabilities[row.position] for row in table.itertuples(index=False)
    ]
    probabilities = pd.DataFrame(probabilities).to_numpy(float)  # also of no face at all
    return {
        "names": list(study.answers[0].predictions.faces.class_names),
        "models": [content.printable(one.name) for one in study.answers],
        "grids": [list(grid) for grid in maps[2]],
        "faces": gallery.face_columns(study, table, probabilities, maps, [0] * len(table)),
        "suspects": suspects.to_csv(index=False),
    }


def list_pictures(study, table, suspects, twins):
    """The photographs that the page shows, each once, and {path: position}; those of the lists come first."""
    folder = study.answers[0].image_dir
    listed = {path: Path(folder) / path if folder else None for path in suspects.path.head(SUSPECTS_SHOWN)}
    for twin in (twin for pair in twins[:TWINS_SHOWN] for twin in pair):
        listed[twin["path"]] = Path(folder) / twin["path"] if folder else None
    listed |= dict(zip(table.path, gallery.photographs(study, table), strict=True))
    return list(listed.values()), {path: number for number, path in enumerate(listed)}


def add_pictures(twins, keys):
    for twin in (twin for pair in twins for twin in pair):
        twin["picture"] = keys.get(twin["path"])


def render(sections, faces):
    """The page as text."""
    style, script = ((TEMPLATES / name).read_text(encoding="utf-8") for name in ("report.css", "report.js"))
    policy = (
        "default-src 'none'; img-src data:; base-uri 'none'; form-action 'none';"
        f" style-src '{digest(style)}'; script-src '{digest(script)}'"
    )
    return template("report.html").render(
        **{**sections, "mean_maps": [gallery.embedded_map(one) for one in sections["mean_maps"]]},
        summary=faces["summary"],
        generator=GENERATOR,
        policy=policy,
        style=style,
        script=script,
        data=to_json(faces["data"]),
        pictures=to_json(faces["pictures"]),
        suspects_shown=SUSPECTS_SHOWN,
        twins_shown=TWINS_SHOWN,
    )


def template(name):
    """A template of this room; what it shows is escaped, and a name that it lacks is an error."""
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(name)


def digest(text):
    """How a content security policy names an inline style or script."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def to_json(value):
    """JSON for a script element: nothing in it can end the element or a line of a script."""
    text = json.dumps(value, separators=(",", ":"), ensure_ascii=True, allow_nan=False)  # so no U+2028 either
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text
