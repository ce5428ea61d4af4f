"""Options of a command from the fields of a dataclass, which also holds their defaults and their help."""

import argparse
from dataclasses import MISSING, fields
from types import NoneType
from typing import Any, TypeVar, get_args, get_type_hints

Options = TypeVar("Options")


def add_fields(parser: argparse.ArgumentParser, options_class: type) -> None:
    """Adds an option for every field: text, a number, or a switch, which may also be empty (None) by default."""
    types = get_type_hints(options_class)
    for field in fields(options_class):
        name = f"--{field.name.replace('_', '-')}"
        (kind,) = [each for each in get_args(types[field.name]) or (types[field.name],) if each is not NoneType]
        required = field.default is MISSING
        told = field.metadata["help"] + ("" if required or field.default is None else f" (default: {field.default})")
        if kind is bool:
            parser.add_argument(name, action=argparse.BooleanOptionalAction, default=field.default, help=told)
        else:
            default: Any = None if required else field.default
            parser.add_argument(name, type=kind, required=required, default=default, help=told)


def from_options(options_class: type[Options], options: argparse.Namespace) -> Options:
    """The dataclass with the values of a command line."""
    return options_class(**{field.name: getattr(options, field.name) for field in fields(options_class)})  # type: ignore[arg-type]
