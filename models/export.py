"""ONNX files of a trained network: faces in, the answers of predict.py out; and their 8-bit form.

The packages onnx, onnxscript and onnxruntime are an extra (requirements-export.txt), imported where they are used.
"""

import contextlib
import json
import logging
import warnings
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace

import torch
from torch import nn

from models.ages import MASS, age_quantile
from models.decode import DECODERS
from models.network import size_mib
from utils.errors import UserError
from utils.reading import read_bytes
from utils.serialization import first_line

PRODUCER = "age-groups"  # marks a file as ours
LARGEST = 2000  # MiB of a network; protobuf, in which ONNX files are written, ends at 2048
FILE_LIMIT = 2048  # MiB
SMALLEST = torch.finfo(torch.float32).tiny  # stands for a probability of 0, as in evaluation/calibration.py
# The operators that take the time; everything else stays in 32 bits.
QUANTIZED = ["Conv", "ConvTranspose", "Gemm", "MatMul", "LeakyRelu", "Relu", "Add", "MaxPool"]


class FacePipeline(nn.Module):
    """Normalisation, network, head, decoder and temperature as one network, which sees each face mirrored, too.

    Args:
        model: a Network, which knows its mean and std.
        temperature: probabilities p become softmax(log(p) / temperature); None leaves them as they are.
        decoder: the name of the decoder of the probabilities before the temperature.
        mass: the probability that the interval of an age holds.
    """

    def __init__(self, model, temperature=None, decoder="argmax", mass=MASS):
        super().__init__()
        self.model, self.temperature, self.decoder, self.mass = model, temperature, decoder, mass
        years = model.classes is not None and model.classes.years
        self.register_buffer("bounds", torch.tensor(model.classes.bounds, dtype=torch.float32) if years else None)
        for name in ("mean", "std"):
            self.register_buffer(name, torch.tensor(getattr(model, name)).view(3, 1, 1))

    def forward(self, images):
        """uint8 RGB (N, 3, S, S) -> the outputs of `to_onnx`."""
        images = (images.float() / 255 - self.mean) / self.std
        probabilities = self.model.flip_averaged_probabilities(images)
        answers = [DECODERS[self.decoder](probabilities)]
        if self.bounds is not None:
            tail = (1 - self.mass) / 2
            low, age, high = (age_quantile(probabilities, self.bounds, share) for share in (tail, 0.5, 1 - tail))
            answers += [age, torch.stack([low, high], 1)]
        if self.temperature is not None:
            probabilities = (probabilities.clamp_min(SMALLEST).log() / self.temperature).softmax(1)
        return probabilities, *answers


def to_onnx(model, metadata):
    """The ONNX form of a Network.

    Args:
        model: the Network, on the CPU, with its image size S. Its record may have `temperature`, `decoder` and `mass`.
        metadata: {name: text}, stored in the file.

    Returns:
        onnx.ModelProto with the input `images`, uint8 (batch, 3, S, S), and the outputs `probabilities`, float32
        (batch, K), `predicted`, int64 (batch,), and, where the classes are ages, `age`, float32 (batch,), and
        `age_interval`, float32 (batch, 2), in years.

    Raises:
        UserError: the network is too large, or cannot be expressed in ONNX.
    """
    if size_mib(model) > LARGEST:
        raise UserError(f"this network has {size_mib(model):,.0f} MiB; one ONNX file holds at most {LARGEST:,}")
    settings = {name: model.record[name] for name in ("temperature", "decoder", "mass") if name in model.record}
    pipeline = FacePipeline(model, **settings).eval()
    example = torch.zeros(2, 3, model.image_size, model.image_size, dtype=torch.uint8)
    try:
        with quiet():
            program = torch.export.export(pipeline, (example,), dynamic_shapes=({0: torch.export.Dim("batch")},))
            program = program.run_decompositions(DECOMPOSITIONS)
            outputs = ["probabilities", "predicted"] + (["age", "age_interval"] if pipeline.bounds is not None else [])
            names = {"input_names": ["images"], "output_names": outputs}
            proto = torch.onnx.export(program, dynamo=True, verbose=False, **names).model_proto
    except torch.onnx.OnnxExporterError as error:
        raise UserError(f"this network cannot be exported: {first_line(error.__cause__ or error)}") from None
    remove_notes(proto.graph)
    for value in (*proto.graph.input, *proto.graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "batch"
    return with_metadata(proto, metadata)


def remove_notes(graph):
    """Remove the exporter's notes, which hold source lines and paths of this machine, and what onnxruntime infers."""
    del graph.value_info[:]
    for element in (graph, *graph.node, *graph.input, *graph.output, *graph.initializer):
        del element.metadata_props[:]
        element.doc_string = ""


def over_prefixes(reduce, values, dim):
    return torch.stack([reduce(values.narrow(dim, 0, count), dim) for count in range(1, values.shape[dim] + 1)], dim)


# Operators of models/heads.py that ONNX lacks, made from others.
DECOMPOSITIONS = {
    torch.ops.aten.cumprod.default: lambda values, dim: over_prefixes(torch.prod, values, dim),
    torch.ops.aten.cummin.default: lambda values, dim: (over_prefixes(torch.amin, values, dim), None),
}


@contextlib.contextmanager
def quiet():
    """Suppress the packages' own warnings and log lines within the block."""
    with warnings.catch_warnings(action="ignore"), contextlib.ExitStack() as stack:
        stack.callback(logging.disable, logging.root.manager.disable)
        logging.disable(logging.CRITICAL)
        yield


def with_metadata(proto, metadata):
    from onnx import helper

    proto.producer_name, proto.producer_version = PRODUCER, ""
    helper.set_model_props(proto, metadata)
    return proto


def metadata_of(model, licence):
    """The metadata of an ONNX file, {name: text}; values other than texts are JSON."""
    names = "framing detector temperature decoder fold commit".split()  # framing: see photos/framing.py
    values = {"class_names": model.classes.names, "image_size": model.image_size, "licence": licence}
    values |= {name: model.record[name] for name in names if model.record.get(name) is not None}
    return {name: value if isinstance(value, str) else json.dumps(value) for name, value in values.items()}


def to_int8(proto, batches, keep=None, averaged=True):
    """The 8-bit form of an ONNX model, by static quantization.

    Weights have a scale per channel and 7 bits: with 8, products overflow on processors without VNNI instructions.
    Activations have 8 bits. The normalisation, the last layer and the probabilities stay in 32.

    Args:
        proto: the model of `to_onnx`.
        batches: a list of uint8 arrays (N, 3, S, S), the calibration faces, 25 or so in each.
        keep: graph -> the names of the nodes that stay in 32 bits; None stands for `kept_in_float`.
        averaged: a range goes from the mean of the batches' minima to the mean of their maxima, not to the extremes.

    Returns:
        onnx.ModelProto of the same input, output and metadata.
    """
    import onnx
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    feeds = iter([{"images": images} for images in batches])
    with TemporaryDirectory() as folder, quiet():
        source, prepared, quantized = (Path(folder) / f"{name}.onnx" for name in ("source", "prepared", "int8"))
        onnx.save(proto, source)
        quant_pre_process(source, prepared, skip_symbolic_shape=True)
        quantize_static(
            prepared,
            quantized,
            SimpleNamespace(get_next=lambda: next(feeds, None)),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=QUANTIZED,
            nodes_to_exclude=(keep or kept_in_float)(onnx.load(prepared).graph),
            per_channel=True,
            reduce_range=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod.MinMax,
            extra_options={"CalibMovingAverage": averaged},
        )
        small = onnx.load(quantized)
    return with_metadata(small, {prop.key: prop.value for prop in proto.metadata_props})


def kept_in_float(graph):
    """The names of the nodes before the first convolution, and from the last linear layer on: the head."""
    kinds = [node.op_type for node in graph.node]  # in the order of computation
    linear = [number for number, kind in enumerate(kinds) if kind in ("Gemm", "MatMul")]
    head = linear[-1] if linear else len(kinds)
    first = kinds.index("Conv") if "Conv" in kinds else 0
    return [node.name for node in (*graph.node[:first], *graph.node[head:])]


def open_session(content):
    """An onnxruntime.InferenceSession of an ONNX file, its bytes or its path, on one thread of the CPU."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3  # errors only
    return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])


def is_export(path):
    """Whether a file is an earlier export. Raises UserError if it cannot be read."""
    import onnx

    content = read_bytes(path, FILE_LIMIT)
    try:
        return onnx.load_model_from_string(content).producer_name == PRODUCER
    except Exception:  # protobuf's own, whose package is not ours to import
        return False
