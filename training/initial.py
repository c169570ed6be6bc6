"""Initial weights from a model file, or from a state dict of torchvision's or timm's network."""

from dataclasses import dataclass, field
from pathlib import Path

import torch

from models.checkpoint import FORMAT, load_model
from models.network import layer_groups
from models.pruning import pruned_state
from models.timm_network import PREFIX, create_backbone
from utils.cli import printable
from utils.errors import UserError, is_out_of_memory
from utils.reading import exists, open_regular
from utils.serialization import check_archive, check_content, first_line

STATE_DICT_LIMIT = 4096  # MiB
PARAMETER = {"torch._utils _rebuild_parameter"}  # as a state dict may hold
NESTED = ("state_dict", "model")  # where training scripts keep the weights within their files
LEAST_SHARE = 0.5  # of the network's values; what shares less is another network


@dataclass(frozen=True)
class InitialWeights:
    """Weights to start from.

    Attributes:
        name: the file, or the network whose weights they are.
        state: {name: tensor}.
        record: what the model file records of its training; {} where it is not known.
        class_names: of the model file; () where they are not known.
    """

    name: str
    state: dict
    record: dict = field(default_factory=dict)
    class_names: tuple = ()


def initial_weights(path, pretrained, network, fold):
    """The weights that --init-from or --pretrained asks for; None without either. Raises UserError.

    Args:
        path: a file, a run directory, or "".
        pretrained: whether torchvision's ImageNet weights, or timm's, are wanted.
        network: the name of the network.
        fold: the held-out fold; a run directory stands for its all.pt, or else its model of the same fold.
    """
    if pretrained:
        state = download_state(network)
        origin = network if network.startswith(PREFIX) else f"torchvision's {network}"
        return InitialWeights(origin, state)
    if not path:
        return None
    if Path(path).is_dir():
        path = str(Path(path) / ("all.pt" if exists(Path(path) / "all.pt") else f"fold_{fold}.pt"))
    content = load_state(path)
    if content.get("format") == FORMAT:
        model = load_model(path)
        return InitialWeights(path, model.state_dict(), model.record, model.classes.names)
    state = next((content[name] for name in NESTED if isinstance(content.get(name), dict)), content)
    return InitialWeights(path, {name: value for name, value in state.items() if isinstance(value, torch.Tensor)})


def load_state(path):
    """The dict in a file of torch.save; loading it runs no code. Raises UserError."""
    with open_regular(path, STATE_DICT_LIMIT) as file:
        try:
            size = check_archive(file, PARAMETER)
            content = torch.load(file, map_location="cpu", weights_only=True)
            if isinstance(content, dict):
                check_content(content, size)
        except Exception as error:  # a damaged file can fail in any way, deep within zip, pickle or torch
            if is_out_of_memory(error):
                raise
            problem = "is damaged or holds more than tensors and plain values"
            raise UserError(f"--init-from: '{path}' {problem}; expected a model file or a state dict") from None
    if not isinstance(content, dict):
        raise UserError(f"--init-from: '{path}' holds a {type(content).__name__}; expected a state dict")
    return content


def download_state(network):
    """Torchvision's ImageNet weights, or timm's own, from a cache or the web. Raises UserError."""
    if network.startswith(PREFIX):
        try:
            return create_backbone(network.removeprefix(PREFIX), pretrained=True).state_dict()
        except OSError as error:
            raise UserError(f"--pretrained: cannot download the weights of {network}: {first_line(error)}") from None
    from torchvision.models import get_model_weights

    try:
        weights = get_model_weights(network).DEFAULT
    except ValueError:
        raise UserError(f"--pretrained: torchvision has no weights of {network}; use a resnet") from None
    try:
        return weights.get_state_dict(progress=False, check_hash=True)
    except (OSError, RuntimeError) as error:
        raise UserError(
            f"--pretrained: cannot download {weights.url}: {first_line(error)}; fetch it where there is a network, and"
            " give the file to --init-from"
        ) from None


def fitting_weights(model, initial):
    """The weights that fit into a new network.

    A convolution's bias that the textbook's network lacks becomes 0: a normalisation follows, so that the network
    computes the same. If the new network has fewer channels within its blocks, the strongest are kept
    (models/pruning.py). Other parameters without a counterpart of the same shape keep their new values.

    Args:
        model: a Network with Classes; its values are neither read nor changed.
        initial: InitialWeights.

    Returns:
        ({name: tensor}, {group of layers: (its values among these, all of its values)}).

    Raises:
        UserError: fewer than half of the network's values fit, apart from its last layer.
    """
    names = {} if initial.class_names else model.pretrained_names  # a model file has our names
    own, found = model.state_dict(), pruned_state(model, renamed(initial.state, names))
    # The last layer's rows are classes: of others, they mean something else.
    same_classes = initial.class_names == model.classes.names
    fitting = {
        name: value.to(own[name].dtype)
        for name, value in found.items()
        if name in own and value.shape == own[name].shape and (same_classes or not name.startswith("fc."))
    }
    for name in own.keys() - fitting.keys():
        if name.endswith(".bias") and own[name].ndim == 1 and name.replace(".bias", ".weight") in fitting:
            fitting[name] = torch.zeros(own[name].shape, dtype=own[name].dtype)
    counts = count_values(model, fitting)
    body = [pair for name, pair in counts.items() if name != "fc"]
    if sum(copied for copied, _ in body) < LEAST_SHARE * sum(total for _, total in body):
        raise UserError(mismatch(initial.name, found, own))
    if not all(value.isfinite().all() for value in fitting.values()):
        raise UserError(f"--init-from: '{initial.name}' holds numbers that are not finite")
    return fitting, counts


def renamed(state, starts):
    """The tensors of a state under our names; `starts` is {start of a name: the start of ours}."""
    ours = {}
    for name, value in state.items():
        start = next((start for start in starts if name.startswith(start)), "")
        ours[starts.get(start, "") + name.removeprefix(start)] = value
    return ours


def count_values(model, fitting):
    """{group of layers: (values of its parameters in `fitting`, all of its parameters' values)}."""
    named, counts = {id(value): name for name, value in model.named_parameters()}, {}
    for group, part in layer_groups(model).items():
        sizes = {named[id(parameter)]: parameter.numel() for parameter in part.parameters()}
        counts[group] = (sum(size for name, size in sizes.items() if name in fitting), sum(sizes.values()))
    return counts


def mismatch(path, found, own):
    """The first tensor that does not fit, as text."""
    name = next(name for name, value in own.items() if name not in found or found[name].shape != value.shape)
    if name not in found:
        return f"--init-from: '{path}' has no '{name}': it is of another network"
    theirs, ours = tuple(found[name].shape), tuple(own[name].shape)
    return f"--init-from: '{path}' has a '{name}' of {theirs}; this network's is {ours}"


def describe_initial(initial, counts):
    """'initial weights: FILE; new: fc' and the like; `counts` as returned by `fitting_weights`."""
    new = [name for name, (copied, total) in counts.items() if copied == 0 and total]
    new += [
        f"{name} ({copied:,} of {total:,} values)" for name, (copied, total) in counts.items() if 0 < copied < total
    ]
    lines = [f"initial weights: {printable(initial.name)}; new: {', '.join(new) or 'nothing'}"]
    if not initial.record:
        lines.append("  their training data is not known; it may include the held-out faces")
    return "\n".join(lines)
