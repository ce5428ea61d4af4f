"""Texts out of Jinja templates: the cards of data sets and models."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any


def fill_template(file: Path, values: Mapping[str, Any]) -> str:
    """The text of a template, filled.

    Args:
        file: the template; others that it includes stand beside it.
        values: by the names that the template uses; functions among them may be called there.

    Raises:
        jinja2.UndefinedError: the template uses a name that has no value.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(file.parent),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    return environment.get_template(file.name).render(values)
