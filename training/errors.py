"""One translation of errors for all commands and scripts: what the user can mend is one line, all else is a fault."""

from __future__ import annotations

import sys

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError

MENDABLE = (ValueError, OSError, ImportError, FloatingPointError, SafetensorError, StrictDataclassError)


def tell_user(error: Exception, name: str, memory_advice: str) -> int:
    """Tells on standard error, in one line, why a command ends; returns its exit status.

    Args:
        error: what ended it.
        name: of the command, before its errors.
        memory_advice: what to do where memory ran out.

    Raises:
        Exception: the error itself, where it is a fault of the program.
    """
    line = " ".join(str(error).split())
    words = ("can't allocate memory", "not enough memory", "out of memory")  # of a tensor, on whatever device
    told = isinstance(error, RuntimeError) and any(word in line.lower() for word in words)
    if told or isinstance(error, torch.OutOfMemoryError):
        line = f"out of memory: {memory_advice} ({line[:200]})"
    elif not isinstance(error, MENDABLE):
        raise error
    print(f"{name}: error: {line}", file=sys.stderr)
    return 2
