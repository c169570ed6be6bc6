"""Predict the age group of cropped faces with an ONNX file of tools.export. Needs no torch.

    python -m pip install numpy onnxruntime pillow
    python examples/onnx_predict.py fold_0.onnx face.jpg [face.jpg ...]

    face.jpg  25-32 81 %  (38-43 9 %, 15-20 7 %)

Copy what you need: open_model and read_face are all that a program of your own has to do.
"""

import argparse
import json
import sys

import numpy as np
import onnxruntime
from PIL import Image, ImageOps


def open_model(path):
    """Open an ONNX file of tools.export.

    Returns:
        (session, class names, image size). The file says of itself what else there is to know: fold, temperature,
        framing, licence; see `session.get_modelmeta().custom_metadata_map`.
    """
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    metadata = session.get_modelmeta().custom_metadata_map
    return session, json.loads(metadata["class_names"]), int(metadata["image_size"])


def read_face(path, size):
    """Read a photograph of a face as the training did: upright, its centre square resized.

    Returns:
        uint8 array (3, size, size), RGB.
    """
    with Image.open(path, formats=("JPEG", "PNG", "WEBP")) as image:
        image.draft("RGB", (size, size))  # a large JPEG decodes straight to about this size, which is faster
        image = ImageOps.exif_transpose(image)  # as the camera was held
        if image.mode.startswith("I"):  # 16 bits; Pillow would cut them off at 255
            image = Image.fromarray((np.asarray(image).astype(np.uint32) >> 8).clip(0, 255).astype(np.uint8))
        image = image.convert("RGB")
    side = min(image.size)
    left, top = (image.width - side) / 2, (image.height - side) / 2
    square = image.resize((size, size), Image.Resampling.BILINEAR, box=(left, top, left + side, top + side))
    return np.asarray(square).transpose(2, 0, 1)


def describe(probabilities, predicted, class_names):
    """The predicted group, its probability, and the two most probable others."""
    order = [predicted, *(k for k in np.argsort(-probabilities, kind="stable") if k != predicted)]
    answer, *others = [f"{class_names[k]} {100 * probabilities[k]:.0f} %" for k in order[:3]]
    return f"{answer}  ({', '.join(others)})"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", help="ONNX file of tools.export")
    parser.add_argument("faces", nargs="+", help="photographs, each of one face, cropped as the training faces were")
    options = parser.parse_args()
    sys.stdout.reconfigure(errors="backslashreplace")  # a file may have a name that the terminal cannot show
    try:
        session, class_names, size = open_model(options.model)
    except Exception as error:  # onnxruntime's errors have no common class
        return fail(f"'{options.model}' is not a model of tools.export: {error}")
    for path in options.faces:
        try:
            images = read_face(path, size)[None]  # (1, 3, size, size); a larger batch is faster for many faces
        except Exception as error:  # a damaged photograph can fail anywhere within Pillow
            return fail(f"'{path}' is not a photograph: {error}")
        probabilities, predicted = session.run(["probabilities", "predicted"], {"images": images})  # (1, K), (1,)
        print(f"{path}  {describe(probabilities[0], predicted[0], class_names)}")
    return 0


def fail(message):
    print("error: " + " ".join(message.split()), file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
