"""The HTML report: one file that a browser opens without a server, a network or anything beside it.

Nothing in it is fetched, and its policy forbids the browser to fetch: styles and script are allowed by their hashes.
Text from outside is escaped, or reaches the script as JSON and the page as text.
"""

import base64
import hashlib
from pathlib import Path

from jinja2.utils import htmlsafe_json_dumps

from report.card import TEMPLATES, template
from report.errors import SUSPECTS
from report.gallery import choose_faces, face_columns, make_thumbnails
from report.labels import COLUMNS
from report.plots import save
from report.sections import SECTIONS
from utils.cli import printable
from utils.files import check_output, write_csv, write_text
from utils.reading import starts_with

GENERATOR = "age groups report"  # marks the page as ours
NO_GALLERY = {"values": {}, "numbers": {}, "pictures": {}}
NO_COUNTS = {"mistakes": 0, "shown": 0, "side": 0, "missing": 0}


def write_report(path, data, formats=()):
    """Write the HTML report, and beside it suspects.csv and the plots.

    Args:
        path: the file; an earlier report is replaced once the new one is complete.
        data: the ReportData.
        formats: names in plots.FORMATS, for the plots; no plots by default.

    Returns:
        A dict with bytes, mistakes, shown (the mistakes in the gallery), side (of a thumbnail, in pixels) and missing
        (the photographs that could not be read).

    Raises:
        UserError: the file cannot be written, or is there and is none of ours.
    """
    path = Path(path)
    check_report(path)
    contents = {section.name: section.values(data) for section in SECTIONS}
    gallery, summary = faces_of_page(data, contents) if data.evaluations else (NO_GALLERY, NO_COUNTS)
    text = render(data, contents, gallery, summary)
    write_text(path, text)
    if data.evaluations:
        write_csv(path.with_name(SUSPECTS), contents["labels"]["table"])
    for content in filter(None, contents.values()):
        for stem, figure in content.get("figures", {}).items():
            save(figure, path.with_name(stem), formats)
    return {"bytes": len(text.encode()), **summary}


def check_report(path):
    """Refuse to replace a page or a list of suspects that is somebody else's. Raises UserError."""
    # The template from its second line, since the first is Jinja's, to the name of its generator.
    start = (TEMPLATES / "report.html").read_text(encoding="utf-8").partition("\n")[2].partition("{{")[0] + GENERATOR
    check_output(path, lambda own: starts_with(own, start), "our report")
    beside = Path(path).with_name(SUSPECTS)
    check_output(beside, lambda own: starts_with(own, ",".join(COLUMNS)), "our list of suspect labels")


def faces_of_page(data, contents):
    """The gallery and the thumbnails.

    Args:
        data: the ReportData.
        contents: {name of a section: the values for its macro, or None}.

    Returns:
        ({"values": the faces and their classes for the script, "numbers": {path of a face: the number of its
        thumbnail}, "pictures": the thumbnails}, the dict that `write_report` returns, without bytes).
    """
    evaluations = data.evaluations
    table, mistakes = choose_faces(evaluations)
    faces, grids = face_columns(evaluations, table)
    pairs = (contents["pairs"] or {"rows": []})["rows"]
    listed = [face["path"] for rows in (contents["labels"]["rows"], *pairs) for face in rows]
    numbers = {path: k for k, path in enumerate(dict.fromkeys([*listed, *table.path]))}
    photographs = {
        path: Path(evaluation.image_dir) / path
        for evaluation in reversed(evaluations)  # so that the first model that has the face counts
        if evaluation.image_dir
        for path in (data.faces or evaluation.faces).table.path
    }
    pictures = make_thumbnails([photographs.get(path) for path in numbers])
    values = {
        "names": evaluations[0].classes.coarse().names,
        "about": "" if evaluations[0].classes.are_single_years else "about ",
        "models": [printable(evaluation.name) for evaluation in evaluations],
        "grids": grids,
        "faces": faces.assign(picture=[numbers[path] for path in table.path]).to_dict("list"),
        "suspects": contents["labels"]["table"].to_csv(index=False, lineterminator="\n"),
    }
    shown, missing = int((faces.label != faces.prediction).sum()), pictures["scans"].count(None)
    summary = {"mistakes": mistakes, "shown": shown, "side": pictures["side"], "missing": missing}
    return {"values": values, "numbers": numbers, "pictures": pictures}, summary


def render(data, contents, gallery, summary):
    """The page as text, of the ReportData, the values of the sections and the results of `faces_of_page`."""
    style, script = ((TEMPLATES / name).read_text(encoding="utf-8") for name in ("report.css", "report.js"))
    return template("report.html", autoescape=True).render(
        title=data.title,
        notes=data.notes,
        sections=SECTIONS,
        contents=contents,
        numbers=gallery["numbers"],
        summary=summary,
        generator=GENERATOR,
        policy="default-src 'none'; img-src data:; base-uri 'none'; form-action 'none';"
        f" style-src '{csp_hash(style)}'; script-src '{csp_hash(script)}'",
        style=style,
        script=script,
        values=to_json(gallery["values"]),
        pictures=to_json(gallery["pictures"]),
    )


def csp_hash(text):
    """The hash by which a content security policy names an inline style or script."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def to_json(value):
    """JSON for a script element: nothing in it can end the element or a line of a script."""
    return htmlsafe_json_dumps(value, separators=(",", ":"), ensure_ascii=True, allow_nan=False)  # so no U+2028 either
