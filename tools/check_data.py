"""Check the label files and images of a download before anything is trained on them.

    python -m tools.check_data --label-dir DIR --image-dir DIR [--json FILE]
    python -m tools.check_data --label-dir DIR --labels-only

Prints what the label files hold, and every finding. Exit status: 0 no findings, 1 findings, 2 the check failed.
"""

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from utils.cli import printable, run_script, start_script

if __name__ == "__main__":
    start_script()  # before the imports below, which take a while

import numpy as np
from tqdm import tqdm

from data.adience import (
    FACE_KEY,
    FOLDS,
    LABEL_POLICIES,
    NO_AGE,
    face_paths,
    find_prefix,
    find_present,
    read_rows,
    require_folder,
    select_faces,
)
from data.duplicates import SIGNATURE_BYTES, read_signature, same_pictures
from utils.errors import UserError
from utils.files import check_output, write_json
from utils.foreign import read_json
from utils.options import Parser

SHOWN = 5  # lines printed of each finding


def main():
    options = read_command_line()
    report = check(options.label_dir, options.image_dir)
    print_labels(report["labels"])
    if "images" in report:
        print("\nimages: " + ", ".join(f"{count:,} {name}" for name, count in report["images"].items()))
    print_findings(report["findings"])
    if options.json:
        write_json(options.json, report)
    return 1 if report["findings"] else 0


def read_command_line():
    parser = Parser(prog="python -m tools.check_data", description=__doc__.splitlines()[0])
    parser.add_argument(
        "--label-dir", required=True, metavar="DIR", help="folder of fold_0_data.txt to fold_4_data.txt"
    )
    images = parser.add_mutually_exclusive_group(required=True)
    images.add_argument("--image-dir", metavar="DIR", help="folder of the albums, Adience's 'aligned' or 'faces'")
    images.add_argument("--labels-only", action="store_true", help="check the label files alone")
    parser.add_argument("--json", metavar="FILE", help="file to write the whole report to")
    options = parser.parse_args()
    if options.json is not None:
        check_output(
            options.json, lambda path: read_json(path).keys() >= {"labels", "findings"}, "a report of this tool"
        )
    return options


def check(label_dir, image_dir=None):
    """Check the labels and, where there is an `image_dir`, the images.

    Returns:
        The report in plain values: counts under 'labels' and 'images', and 'findings' as {finding: lines}.

    Raises:
        UserError: the files cannot be read at all.
    """
    rows = read_rows(label_dir)
    labels, refusals = count_labels(rows)
    report = {"labels": labels}
    findings = {
        "reasons why no training can start": refusals,
        "people in several folds": names_in_several_folds(rows, "face_id"),
        "albums in several folds": names_in_several_folds(rows, "user_id"),
        "people with several ages": people_with_several_ages(rows),
    }
    if image_dir is not None:
        report["images"], image_findings = check_images(rows, Path(image_dir))
        findings |= image_findings
    report["findings"] = {name: lines for name, lines in findings.items() if lines}
    return report


def count_labels(rows):
    """Counts of rows, people and ages, and of each policy's faces; and what keeps the labels from being used."""
    policies, refusals = {}, []
    for policy in LABEL_POLICIES:
        try:
            _, counts = select_faces(rows, policy)
        except UserError as error:
            refusals.append(str(error))
            continue
        policies[policy] = {
            "rows_per_fold": list(counts.rows_per_fold.values()),
            "faces_per_fold": list(counts.faces_per_fold.values()),
            "faces_per_class": counts.faces_per_class,
        }
    counts = {
        "rows": len(rows),
        "rows_per_fold": [int((rows.fold == fold).sum()) for fold in FOLDS],
        "repeats": int(rows.duplicated(FACE_KEY).sum()),
        "people": rows.face_id.nunique(),
        "albums": rows.user_id.nunique(),
        "ages": {str(age): int(count) for age, count in rows.age.value_counts().items()},
        "policies": policies,
    }
    return counts, sorted(set(refusals))


def names_in_several_folds(rows, column):
    folds = rows.groupby(column).fold.unique()
    return [f"{name}: folds {', '.join(map(str, sorted(f)))}" for name, f in folds[folds.map(len) > 1].items()]


def people_with_several_ages(rows):
    """People with more than one text for the age; None and the empty text are not an age."""
    aged = rows[~rows.age.isin(NO_AGE)]
    ages = aged.groupby(["user_id", "face_id"]).age.unique()
    return [f"{album}/{person}: {', '.join(a)}" for (album, person), a in ages[ages.map(len) > 1].items()]


def check_images(rows, image_dir):
    """Counts of the images, and {finding: lines}."""
    require_folder(image_dir, "the image directory")
    table = rows.drop_duplicates(FACE_KEY).rename(columns={"user_id": "album", "face_id": "subject"})
    table = table.assign(path=face_paths(table, find_prefix(rows, image_dir)))
    present = find_present(table, image_dir)
    missing, table = table.path[~present].tolist(), table[present]
    signatures, damaged = read_signatures([image_dir / path for path in table.path])
    table = table[[signature is not None for signature in signatures]]
    readable = [signature for signature in signatures if signature is not None]
    pairs = same_pictures(np.array(readable, np.uint8).reshape(-1, SIGNATURE_BYTES))
    across_folds, across_ages = compare_labels(table, pairs)
    counts = {"listed": len(signatures) + len(missing), "readable": len(table), "same picture": len(pairs)}
    return counts, {
        "missing images": missing,
        "unreadable or truncated images": damaged,
        "the same picture in different folds": across_folds,
        "the same picture under different ages": across_ages,
    }


def read_signatures(paths):
    """A list of signatures, None for each image that cannot be decoded, and the list of their errors."""

    def read(path):
        try:
            return read_signature(path), None
        except UserError as error:
            return None, str(error)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        results = list(tqdm(pool.map(read, paths), total=len(paths), desc="reading images", disable=None))
    return [signature for signature, _ in results], [error for _, error in results if error]


def compare_labels(table, pairs):
    """The pairs of the same picture in different folds, and those under different ages, as lines of text."""
    across_folds, across_ages = [], []
    for first, second in pairs:
        a, b = table.iloc[first], table.iloc[second]
        line = f"{a.path} (fold {a.fold}, {a.age}) and {b.path} (fold {b.fold}, {b.age})"
        if a.fold != b.fold:
            across_folds.append(line)
        if a.age != b.age and not {a.age, b.age} & set(NO_AGE):
            across_ages.append(line)
    return across_folds, across_ages


def print_labels(labels):
    print(f"{labels['rows']:,} rows ({' '.join(f'{n:,}' for n in labels['rows_per_fold'])} in folds 0 to 4),", end=" ")
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
        print(f"{len(lines):,} {name}")
        for line in lines[:SHOWN]:
            print(f"    {printable(line)}")
        if len(lines) > SHOWN:
            print(f"    and {len(lines) - SHOWN:,} more")
    if not findings:
        print("no findings")


if __name__ == "__main__":
    run_script(main)
