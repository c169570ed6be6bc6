"""Predict the age group of cropped faces with an ONNX file of tools.export. Needs no torch.

    python -m pip install numpy onnxruntime pandas pillow tqdm
    python examples/onnx_predict.py fold_0.onnx face.jpg [face.jpg ...]

    face.jpg  about 29 years (24-35)  25-32  81 %  (38-43 9 %, 15-20 7 %)

The answers are those of predict.py --no-detect. `open_model` and `decode_face` are all that a program of your own
needs. The latter reads a photograph as the training did: upright, in the colours of sRGB, its centre square resized.
"""

import argparse
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import onnxruntime

sys.path.insert(0, str(Path(__file__).parents[1]))

from data.images import decode_face
from photos.output import describe
from utils.classes import Classes
from utils.cli import printable, run_script
from utils.errors import UserError


def open_model(path):
    """Open an ONNX file of tools.export.

    Returns:
        (session, Classes, image size). The file says of itself what else there is to know: fold, temperature,
        framing, licence; see `session.get_modelmeta().custom_metadata_map`.
    """
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    metadata = session.get_modelmeta().custom_metadata_map
    return session, Classes.guess(json.loads(metadata["class_names"])), int(metadata["image_size"])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", help="ONNX file of tools.export")
    parser.add_argument("faces", nargs="+", help="photographs, each of one face, cropped as the training faces were")
    options = parser.parse_args()
    try:
        session, classes, size = open_model(options.model)
    except Exception as error:  # onnxruntime's errors have no common class
        raise UserError(f"'{options.model}' is not a model of tools.export: {error}") from None
    for path in options.faces:
        images = decode_face(path, size)[None]  # (1, 3, size, size); a larger batch is faster for many faces
        answers = [output[0].tolist() for output in session.run(None, {"images": images})]
        probabilities, predicted, age, interval = answers if classes.years else [*answers, None, None]
        named = dict(zip(classes.names, probabilities, strict=True))
        face = SimpleNamespace(
            probabilities=named, group=classes.names[predicted], age=age, age_interval=interval, doubts=()
        )
        print(f"{printable(path)}  {describe(face, 3, classes)}")


if __name__ == "__main__":
    run_script(main)
