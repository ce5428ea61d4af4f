"""One translation of errors for all commands and scripts: what the user can mend is one line, all else is a fault."""

from __future__ import annotations

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError

MENDABLE = (ValueError, OSError, ImportError, FloatingPointError, SafetensorError, StrictDataclassError)


def line_for_the_user(error: BaseException, memory_advice: str) -> str | None:
    """An error as one line, with advice where memory ran out; None where it is a fault of the program."""
    line = " ".join(str(error).split())
    words = ("can't allocate memory", "not enough memory", "out of memory")  # of a tensor, on whatever device
    told = isinstance(error, RuntimeError) and any(word in str(error).lower() for word in words)
    if told or isinstance(error, torch.OutOfMemoryError):
        return f"out of memory: {memory_advice} ({line[:200]})"
    return line if isinstance(error, MENDABLE) else None
