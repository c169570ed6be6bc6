"""Write the CSV file of a known data set, for `main.py --label-file`.

    python -m tools.make_labels utkface DIR > utkface.csv

NAMES has a pattern for each data set whose file names hold ages, people and genders; TABLES has a function for each
that has tables. Files whose names do not match are listed on standard error, not guessed.
"""

import csv
import re
import sys
from collections import Counter
from pathlib import Path

from data.label_file import OLDEST
from photos.photographs import find_photographs
from utils.cli import printable, run_script
from utils.errors import UserError
from utils.options import Parser
from utils.reading import read_text

SHOWN = 5  # names of another form
GENDERS = {"0": "m", "1": "f", "111": "m", "112": "f", "m": "m", "f": "f", "male": "m", "female": "f"}
RACES = {"0": "white", "1": "black", "2": "asian", "3": "indian", "4": "other"}  # UTKFace's numbers
COLUMNS = ["path", "age", "label", "person", "gender", "race", "split"]

# {data set: forms of a path below its folder}; `birth` and `year` give an age in place of `age`.
NAMES = {
    # https://susanqq.github.io/UTKFace: [age]_[gender]_[race]_[date&time].jpg
    "utkface": r"(?:.*/)?(?P<age>\d{1,3})_(?P<gender>[01])_(?P<race>[0-4])_\d+ ?(?:\.?jpg\.chip)?\.jpg",
    # https://yanweifu.github.io/FG_NET_data: 001A43a.JPG, person 1 at 43
    "fgnet": r"(?:.*/)?(?P<person>\d{3})[Aa](?P<age>\d{2})[a-z]?\.(?:JPG|jpg)",
    # https://ibug.doc.ic.ac.uk/resources/agedb: 0_MariaCallas_35_f.jpg
    "agedb": r"(?:.*/)?\d+_(?P<person>.+)_(?P<age>\d{1,3})_(?P<gender>[mf])\.jpg",
    # https://github.com/afad-dataset/tarball: age/111 (male) or 112 (female)/number.jpg
    "afad": r"(?:.*/)?(?P<age>\d{2})/(?P<gender>11[12])/\d+(?:-\d+)?\.jpg",
    # https://bcsiriuschen.github.io/CARC: 14_Aaron_Johnson_0001.jpg
    "cacd": r"(?:.*/)?(?P<age>\d{2})_(?P<person>.+)_\d{4}\.jpg",
    # https://data.vision.ee.ethz.ch/cvl/rrothe/imdb-wiki: nm0000001_rm124825600_1899-5-10_1968.jpg, or
    # 10000217_1981-05-05_2009.jpg: date of birth, and year of the photograph, which is taken as its first of July
    "imdb-wiki": r"(?:.*/)?(?P<person>(?:nm)?\d+)_(?:rm\d+_)?(?P<birth>\d{4}-\d{1,2}-\d{1,2})_(?P<year>\d{4})\.jpg",
}


def appa_real(folder):
    """Real ages, of the faces that are cut out with a margin.

    https://chalearnlap.cvc.uab.cat/dataset/26/description: gt_avg_train.csv, gt_avg_valid.csv, gt_avg_test.csv.
    """
    for name, split in (("train", "train"), ("valid", "val"), ("test", "test")):
        for row in read_rows(folder / f"gt_avg_{name}.csv", ("file_name", "real_age")):
            yield {"path": f"{name}/{row['file_name']}_face.jpg", "age": row["real_age"], "split": split}


def fairface(folder):
    """Groups of ages: 0-2, 3-9, 10-19, ..., 60-69, and "more than 70", which becomes 70+.

    https://github.com/dchen236/FairFace: fairface_label_train.csv and fairface_label_val.csv.
    """
    for name, split in (("train", "train"), ("val", "test")):
        for row in read_rows(folder / f"fairface_label_{name}.csv", ("file", "age", "gender", "race")):
            label = "70+" if row["age"] == "more than 70" else row["age"]
            yield {**row, "path": row["file"], "age": "", "label": label, "split": split}


def lagenda(folder):
    """The photographs with one annotated person; --detect or predict.py finds the face in them.

    https://wildchlamydia.github.io/lagenda: lagenda_annotation.csv.
    """
    table = read_rows(folder / "lagenda_annotation.csv", ("img_name", "age", "gender"))
    rows = [row for row in table if row["age"] != "-1"]
    count = Counter(row["img_name"] for row in rows)
    several = sum(number > 1 for number in count.values())
    print(f"note: {several:,} photographs of several people are left out", file=sys.stderr)
    yield from ({**row, "path": row["img_name"]} for row in rows if count[row["img_name"]] == 1)


TABLES = {"appa-real": appa_real, "fairface": fairface, "lagenda": lagenda}


def main():
    parser = Parser(prog="python -m tools.make_labels", description=__doc__.splitlines()[0])
    parser.add_argument("name", choices=(*NAMES, *TABLES), metavar="NAME", help=", ".join((*NAMES, *TABLES)))
    parser.add_argument("folder", metavar="DIR", help="folder of the data set")
    options = parser.parse_args()
    folder = Path(options.folder)
    if not folder.is_dir():
        raise UserError(f"'{folder}' does not exist or is not a folder")
    rows = list(TABLES[options.name](folder) if options.name in TABLES else from_names(folder, NAMES[options.name]))
    if not rows:
        raise UserError(f"'{folder}' holds no file of {options.name}")
    columns = [column for column in COLUMNS if any(row.get(column) for row in rows)]
    table = csv.DictWriter(sys.stdout, columns, restval="", extrasaction="ignore", lineterminator="\n")
    table.writeheader()
    for row in rows:
        gender, race = GENDERS.get(row.get("gender", "").lower(), ""), row.get("race", "")
        table.writerow({**row, "gender": gender, "race": RACES.get(race, race)})


def from_names(folder, form):
    """Yield a row for each photograph below a folder whose path has the form."""
    odd = []
    for path in (path.relative_to(folder).as_posix() for path in find_photographs([folder])):
        found = match.groupdict() if (match := re.fullmatch(form, path, re.ASCII)) else {"age": -1}
        if "birth" in found:
            year, month, _ = map(int, found.pop("birth").split("-"))
            found["age"] = int(found.pop("year")) - year - (month > 6)
        if 0 <= int(found["age"]) <= OLDEST:
            yield {"path": path, **found, "age": str(int(found["age"]))}
        else:
            odd.append(path)
    if odd:
        shown = ", ".join(map(printable, odd[:SHOWN])) + (", ..." if len(odd) > SHOWN else "")
        problem = f"with names of another form, or of no age from 0 to {OLDEST}, are left out"
        print(f"note: {len(odd):,} files {problem}: {shown}", file=sys.stderr)


def read_rows(path, columns):
    """The rows of a CSV file as dicts. Raises UserError where it is missing or lacks a column."""
    table = csv.DictReader(read_text(path).removeprefix("\ufeff").splitlines())
    if missing := [column for column in columns if column not in (table.fieldnames or [])]:
        raise UserError(f"'{path}' has no column '{missing[0]}'")
    return list(table)


if __name__ == "__main__":
    run_script(main)
