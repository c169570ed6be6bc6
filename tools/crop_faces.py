"""Cut the largest face out of each photograph, framed as a model or another data set has it, to train on them.

    python -m tools.crop_faces --image-dir PHOTOGRAPHS --output DIR [--label-file FILE] [--like MODEL_OR_FACES]

Each crop is a PNG with the photograph's name and folder. Photographs without a face are named. With a label file, the
photographs that it lists are cut, and DIR/faces.csv is the label file of the crops.
"""

import os
from collections import Counter
from pathlib import Path

from PIL import Image
from tqdm import tqdm

from data.images import write_image
from data.label_file import read_rows
from models.checkpoint import PUBLISHED, load_model
from photos.crop import cut_largest_face
from photos.framing import find_framing
from photos.photographs import PICTURE_SUFFIXES, find_photographs
from photos.predictor import map_ahead
from utils.cli import printable, run_script
from utils.device import cpu_threads
from utils.errors import UserError
from utils.files import write_csv
from utils.options import Parser, check_limits
from utils.reading import reason

LABELS = "faces.csv"


def main():
    options = read_command_line()
    source, output = Path(options.image_dir), Path(options.output)
    photographs = [path.relative_to(source) for path in find_photographs([source], suffixes=PICTURE_SUFFIXES)]
    crops = {path.as_posix(): path.with_suffix(".png").as_posix() for path in photographs}
    rows = None if options.label_file is None else labels_of(options.label_file, crops)
    if rows is not None:
        crops = {path: crops[path] for path in rows.path}
    if twice := [name for name, count in Counter(map(os.path.normcase, crops.values())).items() if count > 1]:
        raise UserError(f"--image-dir '{source}': several photographs would become '{twice[0]}'; rename all but one")
    framing = framing_of(options.like)

    def cut(name):
        target = output / crops[name]
        try:
            crop = Image.fromarray(cut_largest_face(source / name, framing, options.size).transpose(1, 2, 0))
            target.parent.mkdir(parents=True, exist_ok=True)
            write_image(target, crop)
        except OSError as error:
            raise UserError(f"--output: cannot write '{target}': {reason(error)}") from None
        except UserError as error:
            return str(error)
        return None

    results = map_ahead(cut, crops, cpu_threads())
    problems = list(filter(None, tqdm(results, "cutting", len(crops), unit="img", disable=None)))
    for problem in problems:
        print(f"left out: {printable(problem)}")
    if len(problems) == len(crops):
        raise UserError(f"--image-dir '{source}': none of its photographs shows a face")
    print(f"wrote {len(crops) - len(problems):,} faces of {options.size} pixels to {printable(output)}/")
    if rows is not None:
        rows = rows.assign(path=rows.path.map(crops))
        rows = rows[[(output / path).is_file() for path in rows.path]]
        write_csv(output / LABELS, rows)
        print(f"wrote {len(rows):,} of their labels to {printable(output / LABELS)}")


def labels_of(label_file, crops):
    """The rows of a label file whose photographs are there; the number of others is printed. Raises UserError."""
    rows, _, _ = read_rows(label_file)
    known = rows.path.isin(list(crops))
    if not known.any():
        raise UserError(f"--label-file '{label_file}': none of its photographs is below --image-dir")
    if not known.all():
        print(f"note: {(~known).sum():,} of {len(rows):,} rows name no photograph below --image-dir that can be read")
    return rows[known].drop(columns=["file", "line"])


def framing_of(like):
    """The framing of a model file, or that of a folder of faces, which is measured. Raises UserError without one."""
    if Path(like).is_dir():
        framing, line = find_framing(find_photographs([like]))
        print(line)
    else:
        framing = load_model(like).record.get("framing")
    if framing is None:
        raise UserError(f"--like '{like}': it has no framing to follow; name a folder of faces, or another model")
    return framing


def read_command_line():
    parser = Parser(prog="python -m tools.crop_faces", description=__doc__.splitlines()[0])
    parser.add_argument("--image-dir", required=True, metavar="DIR", help="folder of the photographs")
    parser.add_argument(
        "--like", default=PUBLISHED, metavar="MODEL_OR_DIR",
        help="model, or folder of faces, whose framing is followed (default: weights/ages.pt)",
    )  # fmt: skip
    parser.add_argument("--output", required=True, metavar="DIR", help="folder for the crops; it must not exist")
    parser.add_argument("--label-file", metavar="FILE", help="CSV file of the photographs, see data/label_file.py")
    parser.add_argument("--size", type=int, default=128, metavar="N", help="side of the crops in pixels (default: 128)")
    options = parser.parse_args()
    check_limits("--size", options.size, {"low": 16, "high": 2048})
    if Path(options.output).exists():
        raise UserError(f"--output '{options.output}': it is there already; name a new folder")
    return options


if __name__ == "__main__":
    run_script(main)
