"""Look over a download once, before anything is trained on it.

    python -m data.check --label-dir DIR --image-dir DIR [--json FILE]
    python -m data.check --label-dir DIR --labels-only

Prints what the label files hold and every finding. Exit status: 0 clean, 1 findings, 2 could not look.
"""

import argparse
import json
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from data import DataError
from data.adience import (
    AGE_GROUPS,
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
from data.cache import decode_face

HASH_SIDE = 16  # the hash has HASH_SIDE**2 bits
# Bits in which two copies of one picture may differ after scaling and recompression; the comparison
# of thumbnails then decides, since aligned faces of different people can come near, too.
MOST_DIFFERING_BITS = 30
LEAST_CORRELATION = 0.97
SHOWN = 5


def main():
    options = read_command_line()
    try:
        report = check(options.label_dir, options.image_dir)
        print_report(report)
        if options.json:
            write_whole(Path(options.json), json.dumps(report, indent=2) + "\n")
    except (DataError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return 1 if report["findings"] else 0


def write_whole(path, text):
    unfinished = path.parent / f".{path.name}.unfinished"
    try:
        unfinished.write_text(text, encoding="utf-8")
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def check(label_dir, image_dir=None):
    """The report as plain values; without an image_dir, of the labels alone. Raises DataError."""
    rows = read_rows(label_dir)
    labels, refusals = count_labels(rows)
    report = {"labels": labels, "findings": {}}
    findings = {
        "reasons why no training can start": refusals,
        "people in several folds": crossing(rows, "face_id"),
        "albums in several folds": crossing(rows, "user_id"),
        "people with several ages": people_with_several_ages(rows),
    }
    if image_dir is not None:
        faces, image_findings = check_images(rows, Path(image_dir))
        report["images"] = faces
        findings.update(image_findings)
    report["findings"] = {name: found for name, found in findings.items() if found}
    return report


def count_labels(rows):
    """Rows, repeats and ages; per policy the rows of each fold and the faces of each group.

    Returns the counts, and what keeps the labels from being used at all.
    """
    policies, refusals = {}, []
    for policy in LABEL_POLICIES:
        try:
            _, told = select_faces(rows, policy)
        except DataError as error:
            refusals.append(str(error))
            continue
        policies[policy] = {
            "rows_per_fold": list(told.rows_per_fold.values()),
            "faces_per_fold": list(told.faces_per_fold.values()),
            "faces_per_group": list(told.faces_per_class.values()),
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


def crossing(rows, column):
    folds = rows.groupby(column).fold.unique()
    return [f"{name}: folds {', '.join(map(str, sorted(f)))}" for name, f in folds[folds.map(len) > 1].items()]


def people_with_several_ages(rows):
    """People under more than one age text; None and the empty text are no age."""
    aged = rows[~rows.age.isin(NO_AGE)]
    ages = aged.groupby(["user_id", "face_id"]).age.unique()
    return [f"{album}/{person}: {', '.join(a)}" for (album, person), a in ages[ages.map(len) > 1].items()]


def check_images(rows, image_dir):
    """Counts of the images, and {finding: lines}."""
    require_folder(image_dir, "the image directory")
    faces = rows.drop_duplicates(FACE_KEY)
    faces = faces.rename(columns={"user_id": "album", "face_id": "subject"})
    faces = faces.assign(path=face_paths(faces, find_prefix(rows, image_dir)))
    there = find_present(faces, image_dir)
    missing, faces = faces.path[~there].tolist(), faces[there].reset_index(drop=True)
    thumbnails, unreadable = decode_all(image_dir, faces.path)
    readable = [position for position in range(len(faces)) if position not in unreadable]
    pairs = same_pictures(thumbnails[readable])
    across_folds, across_labels = [], []
    for first, second, _ in pairs:
        one, other = faces.iloc[readable[first]], faces.iloc[readable[second]]
        line = f"{one.path} (fold {one.fold}, {one.age}) and {other.path} (fold {other.fold}, {other.age})"
        if one.fold != other.fold:
            across_folds.append(line)
        if one.age != other.age and not {one.age, other.age} & set(NO_AGE):
            across_labels.append(line)
    counts = {"listed": len(faces) + len(missing), "readable": len(readable), "same picture": len(pairs)}
    return counts, {
        "missing images": missing,
        "unreadable or truncated images": list(unreadable.values()),
        "the same picture in different folds": across_folds,
        "the same picture under different ages": across_labels,
    }


def decode_all(image_dir, paths):
    """uint8 (N, 32, 32) grey thumbnails, and {position: message} of those that cannot be decoded."""
    thumbnails = np.zeros((len(paths), 32, 32), dtype=np.uint8)
    unreadable = {}

    def decode(position):
        try:
            face = decode_face(image_dir / paths[position], 64).transpose(1, 2, 0)
            grey = Image.fromarray(np.ascontiguousarray(face)).convert("L")
            thumbnails[position] = grey.resize((32, 32), Image.Resampling.BOX)
        except DataError as error:
            unreadable[position] = str(error)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(tqdm(pool.map(decode, range(len(paths))), total=len(paths), desc="reading images", disable=None))
    return thumbnails, dict(sorted(unreadable.items()))


def same_pictures(thumbnails):
    """(first, second, correlation) of every pair that is the same picture, compared over all pairs.

    thumbnails: uint8 (N, 32, 32). A difference hash finds the candidates: per pixel of a small
    version, whether its right neighbour is brighter. Their thumbnails' correlation decides.
    """
    hashes = difference_hashes(thumbnails)
    bits = HASH_SIDE * HASH_SIDE
    pairs = []
    for start in range(0, len(hashes), 1024):
        block = hashes[start : start + 1024]
        # Signs multiply to +1 where bits agree, so a matrix product counts agreements minus differences.
        differing = (bits - block @ hashes[start:].T) / 2
        first, second = np.nonzero(np.triu(differing <= MOST_DIFFERING_BITS, k=1))
        pairs += [(start + int(i), start + int(j)) for i, j in zip(first, second, strict=True)]
    found = []
    for first, second in pairs:
        correlation = np.corrcoef(thumbnails[first].ravel(), thumbnails[second].ravel())[0, 1]
        if correlation >= LEAST_CORRELATION:
            found.append((first, second, float(correlation)))
    return found


def difference_hashes(thumbnails):
    """float32 (N, HASH_SIDE**2) of signs."""
    columns = np.linspace(0, 31, HASH_SIDE + 1).round().astype(int)
    smooth = thumbnails.reshape(len(thumbnails), HASH_SIDE, 32 // HASH_SIDE, 32).mean(axis=2)[:, :, columns]
    signs = np.where(smooth[:, :, 1:] > smooth[:, :, :-1], 1, -1)
    return signs.reshape(len(thumbnails), HASH_SIDE * HASH_SIDE).astype(np.float32)


def print_report(report):
    labels = report["labels"]
    print(f"{labels['rows']:,} rows ({' '.join(f'{n:,}' for n in labels['rows_per_fold'])} in folds 0 to 4),", end=" ")
    print(f"{labels['repeats']:,} repeats, {labels['people']:,} people, {labels['albums']:,} albums\n")
    print("policy     rows of fold" + "".join(f"{fold:>7}" for fold in FOLDS) + "     rows    faces")
    for name, counts in labels["policies"].items():
        folds = "".join(f"{n:7,}" for n in counts["rows_per_fold"])
        print(f"{name:<23}{folds}{sum(counts['rows_per_fold']):9,}{sum(counts['faces_per_fold']):9,}")
    print("\npolicy  faces of group " + "".join(f"{group:>7}" for group in AGE_GROUPS))
    for name, counts in labels["policies"].items():
        print(f"{name:<23}" + "".join(f"{n:7,}" for n in counts["faces_per_group"]))
    if "images" in report:
        print("\nimages: " + ", ".join(f"{count:,} {name}" for name, count in report["images"].items()))
    print()
    for name, found in report["findings"].items():
        print(f"{len(found):,} {name}")
        for line in found[:SHOWN]:
            print(f"    {line}")
        if len(found) > SHOWN:
            print(f"    and {len(found) - SHOWN:,} more")
    if not report["findings"]:
        print("no findings")


def read_command_line():
    parser = argparse.ArgumentParser(prog="python -m data.check", description=__doc__.splitlines()[0])
    parser.add_argument(
        "--label-dir", required=True, metavar="DIR", help="folder of fold_0_data.txt to fold_4_data.txt"
    )
    images = parser.add_mutually_exclusive_group(required=True)
    images.add_argument("--image-dir", metavar="DIR", help="folder of the albums, Adience's 'aligned' or 'faces'")
    images.add_argument("--labels-only", action="store_true", help="look at the label files alone")
    parser.add_argument("--json", metavar="FILE", help="write the whole report there")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
