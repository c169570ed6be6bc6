"""Check the label files and images of a download before anything is trained on them.

    python -m tools.check_data --label-dir DIR --image-dir DIR [--json FILE]
    python -m tools.check_data --label-file FACES.csv --image-dir DIR [--age-groups NAME ...]
    python -m tools.check_data --label-dir DIR --labels-only

Prints what the label files hold, and every finding. Exit status: 0 no findings, 1 findings, 2 the check failed.
"""

import functools
from pathlib import Path

import numpy as np

from data import label_file
from data.adience import DEFAULT_GROUPS, LABEL_POLICIES, NO_AGE, read_rows, select_faces
from data.duplicates import SIDE, SIGNATURE_BYTES, both_signatures, find_pairs
from data.images import decode_face, in_threads
from data.labels import FACE_KEY, FOLDS, find_present
from training.config import FIELDS
from utils.cli import printable, run_script
from utils.errors import UserError
from utils.files import check_output, write_json
from utils.options import Parser, add_options
from utils.reading import read_json

SHOWN = 5  # lines printed of each finding


def main():
    options = read_command_line()
    labels = own_labels(options) if options.label_file else adience_labels(options)
    report = check(*labels, options.image_dir)
    print_labels(report["labels"])
    if "images" in report:
        print("\nimages: " + ", ".join(f"{count:,} {name}" for name, count in report["images"].items()))
    print_findings(report["findings"])
    if options.json:
        write_json(options.json, report)
    return 1 if report["findings"] else 0


def read_command_line():
    parser = Parser(prog="python -m tools.check_data", description=__doc__.splitlines()[0])
    labels = parser.add_mutually_exclusive_group(required=True)
    labels.add_argument("--label-dir", metavar="DIR", help="folder of fold_0_data.txt to fold_4_data.txt")
    labels.add_argument("--label-file", metavar="FILE", help="CSV file of your own faces")
    add_options(parser, [FIELDS["age_groups"]])
    parser.set_defaults(age_groups=DEFAULT_GROUPS)
    images = parser.add_mutually_exclusive_group(required=True)
    images.add_argument("--image-dir", metavar="DIR", help="folder of the albums, Adience's 'aligned' or 'faces'")
    images.add_argument("--labels-only", action="store_true", help="check the label files alone")
    parser.add_argument("--json", metavar="FILE", help="file to write the full report to")
    options = parser.parse_args()
    check_output(options.json, lambda path: read_json(path).keys() >= {"labels", "findings"}, "a report of this tool")
    return options


def adience_labels(options):
    """The rows of Adience's label files, and the functions that choose the faces of each label policy."""
    rows = read_rows(options.label_dir, options.image_dir)
    return rows, {policy: functools.partial(select_faces, rows, policy) for policy in LABEL_POLICIES}


def own_labels(options):
    """The same of a CSV file. Faces without a fold are of fold -1, and those without a person of one each."""
    path, groups = options.label_file, tuple(options.age_groups)
    rows, _, notes = label_file.read_rows(path)
    print("".join(f"note: {printable(note)}\n" for note in notes), end="")
    person = rows.person.where(rows.person != "", rows.path) if "person" in rows else rows.path
    age = rows["age" if "age" in rows else "label"]
    fold = rows.fold.astype(float).astype(int) if "fold" in rows else -1
    if "split" in rows:  # a training has validation faces in the folds of the training faces; here they are compared
        fold = rows.split.map({"test": 0, "train": 1, "val": 2, "": -1})
    policies = ("strict", "nearest") if "age" in rows else ("strict",)
    selections = {name: functools.partial(label_file.select_faces, path, name, groups, 0) for name in policies}
    return rows.assign(person=person, album=person, age=age, fold=fold), selections


def check(rows, selections, image_dir=None):
    """Check the labels and, where there is an `image_dir`, the images.

    Args:
        rows, selections: of `adience_labels` or `own_labels`.
        image_dir: the folder of the images.

    Returns:
        The report in plain values: counts under 'labels' and 'images', and 'findings' as {finding: lines}.

    Raises:
        UserError: the files cannot be read at all.
    """
    aged = rows[~rows.age.isin(NO_AGE) & (rows.person != rows.album)]  # in a CSV file people may grow older
    labels, refusals = count_labels(rows, selections)
    report = {"labels": labels}
    findings = {
        "reasons why no training can start": refusals,
        "people in several folds": list_several(rows.person, rows.fold, "folds "),
        "albums in several folds": list_several(rows.album, rows.fold, "folds "),
        "people with several ages": list_several(aged.album + "/" + aged.person, aged.age),
    }
    if image_dir is not None:
        report["images"], image_findings = check_images(rows, Path(image_dir))
        findings |= image_findings
    report["findings"] = {name: lines for name, lines in findings.items() if lines}
    return report


def count_labels(rows, selections):
    """Counts of rows, people and ages, and of each policy's faces; and what keeps the labels from being used."""
    policies, refusals = {}, []
    for policy, choose in selections.items():
        try:
            counts = choose()
        except UserError as error:
            refusals.append(str(error))
            continue
        if len(counts.faces_per_fold) < 2:
            refusals.append(f"policy {policy}: only one fold has faces; two or more are needed")
        policies[policy] = {
            "rows_per_fold": list(counts.rows_per_fold.values()),
            "faces_per_fold": list(counts.faces_per_fold.values()),
            "faces_per_class": counts.faces_per_class,
        }
    counts = {
        "rows": len(rows),
        "rows_per_fold": [int((rows.fold == fold).sum()) for fold in FOLDS] if (rows.fold >= 0).any() else [],
        "repeats": int(rows.duplicated(FACE_KEY).sum()),
        "people": rows.person.nunique(),
        "albums": rows.album.nunique(),
        "ages": {str(age): int(count) for age, count in rows.age.value_counts().items()},
        "policies": policies,
    }
    return counts, sorted(set(refusals))


def list_several(names, values, unit=""):
    """The names that have several different values, as lines of text; both are Series (N,)."""
    found = values.groupby(names).unique()
    return [f"{name}: {unit}{', '.join(map(str, own))}" for name, own in found[found.map(len) > 1].items()]


def check_images(rows, image_dir):
    """Counts of the images, and {finding: lines}."""
    table = rows[~rows.duplicated(FACE_KEY)]
    present = find_present(table.path, image_dir)
    missing, table = table.path[~present].tolist(), table[present]
    read = list(in_threads(read_signature, [image_dir / path for path in table.path], "reading images"))
    signatures = [signature for signature, problem in read if problem is None]
    damaged, table = [problem for _, problem in read if problem], table[[problem is None for _, problem in read]]
    pairs = find_pairs(np.array(signatures, np.uint8).reshape(-1, 2, SIGNATURE_BYTES).swapaxes(0, 1))
    across_folds, across_ages = [], []
    for a, b in (table.iloc[pair].itertuples() for pair in pairs):
        line = " and ".join(f"{row.path} ({f'fold {row.fold}, ' if row.fold >= 0 else ''}{row.age})" for row in (a, b))
        across_folds += [line] if a.fold != b.fold else []
        across_ages += [line] if a.age != b.age and not {a.age, b.age} & set(NO_AGE) else []
    counts = {"listed": len(present), "readable": len(table), "pairs of one picture": len(pairs)}
    return counts, {
        "missing images": missing,
        "unreadable or truncated images": damaged,
        "pairs of one picture in different folds": across_folds,
        "pairs of one picture under different ages": across_ages,
    }


def read_signature(path):
    """The signatures of an image file and its mirror image, uint8 (2, 96). Raises UserError."""
    return both_signatures(decode_face(path, 2 * SIDE)[None])[:, 0]


def print_labels(labels):
    folds = " ".join(f"{count:,}" for count in labels["rows_per_fold"])
    print(f"{labels['rows']:,} rows{f' ({folds} in folds 0 to 4)' if folds else ''},", end=" ")
    print(f"{labels['repeats']:,} repeats, {labels['people']:,} people, {labels['albums']:,} albums")
    if not labels["policies"]:
        return
    print("\npolicy     rows of fold" + "".join(f"{fold:>7}" for fold in FOLDS) + "     rows    faces")
    for name, counts in labels["policies"].items():
        folds = "".join(f"{count:7,}" for count in counts["rows_per_fold"])
        print(f"{name:<23}{folds}{sum(counts['rows_per_fold']):9,}{sum(counts['faces_per_fold']):9,}")
    print("\npolicy  faces of class " + "".join(f"{name:>7}" for name in counts["faces_per_class"]))
    for name, counts in labels["policies"].items():
        print(f"{name:<23}" + "".join(f"{count:7,}" for count in counts["faces_per_class"].values()))


def print_findings(findings):
    print()
    for name, lines in findings.items():
        print(f"{name}: {len(lines):,}")
        for line in lines[:SHOWN]:
            print(f"    {printable(line)}")
        if len(lines) > SHOWN:
            print(f"    and {len(lines) - SHOWN:,} more")
    if not findings:
        print("no findings")


if __name__ == "__main__":
    run_script(main)
