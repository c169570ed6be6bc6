"""Measure where the face lies in the training images, and store it in model files: their framing.

    python -m tools.add_framing MODEL [MODEL ...] --image-dir DIR

predict.py cuts the faces of a photograph out accordingly. main.py does this itself at the end of each fold. Nothing
else in the model files changes.
"""

from pathlib import Path

from models.checkpoint import DETECTOR, load_model, model_files
from photos.framing import find_framing
from photos.photographs import find_photographs
from utils.cli import printable, run_script
from utils.errors import UserError
from utils.files import locked
from utils.options import Parser
from utils.serialization import load_plain, save_plain


def main():
    parser = Parser(prog="python -m tools.add_framing", description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="+", metavar="MODEL", help="model files such as fold_0.pt, or run directories")
    parser.add_argument("--image-dir", required=True, metavar="DIR", help="their training images, or some of them")
    options = parser.parse_args()
    options.models = model_files(options.models)
    for path in options.models:  # all of them before the first one changes
        load_model(path)
    framing, line = find_framing(find_photographs([options.image_dir]))
    print(line)
    if framing is None:
        raise UserError(f"--image-dir '{options.image_dir}': too few faces are found there to measure the framing")
    for path in options.models:
        with locked(Path(path).with_name(".lock")):  # of the run, which may write the file too
            save_plain(path, {**load_plain(path), "framing": framing, "detector": DETECTOR})
        print(f"wrote the framing into {printable(path)}")


if __name__ == "__main__":
    run_script(main)
