"""Settings declared once: a dataclass field with its default, help text and limits is also a command-line option.

A field that is not given stays UNSET until `fill_defaults` gives it a value, so that named sets of defaults (recipes)
know what was chosen explicitly.
"""

import argparse
import dataclasses

from utils.errors import UserError

UNSET = None


def option(default, text, **limits):
    """A dataclass field that is also a command-line option.

    Args:
        default: the value where nothing else is chosen; a tuple for an option that takes several values.
        text: its help text.
        limits: choices (a collection of values), or low and high (both included); metavar, the word that stands for a
            value in the help text; words, {text: the value that it means}.
    """
    return dataclasses.field(default=UNSET, metadata={"default": default, "help": text, **limits})


def default_of(field):
    return field.metadata["default"]


def kind_of(field):
    """The type of an option's value, or of each of its values."""
    default = default_of(field)
    return type(default) if not isinstance(default, tuple) else type(default[0]) if default else str


def fill_defaults(config, defaults):
    """Give every unset field of a (frozen) dataclass its value: from `defaults`, or else its own default."""
    for field in dataclasses.fields(config):
        if getattr(config, field.name) is UNSET:
            object.__setattr__(config, field.name, defaults.get(field.name, default_of(field)))


def check_values(config):
    """Check types, choices and limits of every field. Raises UserError that names the option and its value."""
    for field in dataclasses.fields(config):
        name, value, several = flag(field.name), getattr(config, field.name), isinstance(default_of(field), tuple)
        if several != isinstance(value, tuple):
            raise UserError(f"{name} {value}: expected {'several values' if several else 'one value'}")
        for item in value if several else (value,):
            check_type(name, item, kind_of(field))
            check_limits(name, item, field.metadata)


def check_type(name, value, kind):
    """Raises UserError for a value of another type; a whole number serves as a float, a bool does not."""
    if type(value) is not kind and not (kind is float and type(value) is int):
        expected = {int: "a whole number", float: "a number", str: "a text", bool: "true or false"}[kind]
        raise UserError(f"{name} {value}: expected {expected}")


def check_limits(name, value, limits):
    """Raises UserError for a value that is none of the choices or is out of range."""
    choices, low, high = (limits.get(key) for key in ("choices", "low", "high"))
    words = words_of(limits)
    if choices and value not in choices:
        raise UserError(f"{name} {value}: choose from {', '.join(str(words.get(item, item)) for item in choices)}")
    # Written so that nan, which compares as false, is out of range.
    if (low is not None and not value >= low) or (high is not None and not value <= high):
        bounds = f"from {low}" + (f" to {high}" if high is not None else "")
        raise UserError(f"{name} {value}: expected a number {bounds}")


def flag(name):
    return "--" + name.replace("_", "-")


def as_flags(settings, fields):
    """Command-line options that give these settings, of {name: field}."""
    flags = []
    for name, value in settings.items():
        words = words_of(fields[name].metadata)
        if isinstance(value, bool):
            flags.append(flag(name if value else f"no_{name}"))
        else:
            flags += [flag(name), *(str(words.get(v, v)) for v in (value if isinstance(value, tuple) else (value,)))]
    return flags


def words_of(limits):
    """{value: the word that means it on the command line}."""
    return {value: word for word, value in limits.get("words", {}).items()}


class Parser(argparse.ArgumentParser):
    """argparse without abbreviated options; its errors are one line on standard error, with exit status 2."""

    def __init__(self, **settings):
        super().__init__(allow_abbrev=False, **settings)

    def error(self, message):
        raise UserError(f"{message} ({self.prog} --help lists the options)")


def add_options(parser, fields, default_text=None):
    """Add one option per field; an option that is not given sets nothing.

    Args:
        parser: an ArgumentParser or an argument group.
        fields: dataclass fields made by `option`.
        default_text: what to show for every field instead of a default value.
    """
    for field in fields:
        default, kind, choices = default_of(field), kind_of(field), field.metadata.get("choices")
        if kind is bool:
            settings = {"action": argparse.BooleanOptionalAction}
            shown = "on" if default else "off"
        else:
            usual = "{" + ",".join(map(str, choices)) + "}" if choices else {int: "N", float: "X", str: "DIR"}[kind]
            read = reader(kind, field.metadata.get("words", {}))
            settings = {"type": read, "metavar": field.metadata.get("metavar", usual)}
            shown = str(default)
        if isinstance(default, tuple):
            settings["nargs"] = "*"
            shown = " ".join(map(str, default))
        shown = default_text or shown
        text = field.metadata["help"] + (f" (default: {shown})" if shown else "")
        settings |= {"dest": field.name, "default": argparse.SUPPRESS, "help": text.replace("%", "%%")}
        parser.add_argument(flag(field.name), **settings)


def reader(kind, words):
    """A function from the text of an option to its value: what a word means, or a value that no word stands for."""

    def read(text):
        if text not in words and kind(text) in words.values():
            raise ValueError(text)
        return words[text] if text in words else kind(text)

    read.__name__ = kind.__name__  # in argparse's messages
    return read


def as_tuples(settings):
    """JSON and argparse give lists where a field holds a tuple."""
    return {name: tuple(value) if isinstance(value, list) else value for name, value in settings.items()}


def to_record(config):
    """The settings as plain types that JSON and a model file can hold."""
    return {name: list(value) if isinstance(value, tuple) else value for name, value in vars(config).items()}
