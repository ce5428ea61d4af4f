"""One translation of errors for all commands and scripts: what the user can mend is one line, all else is a fault."""

from __future__ import annotations

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError

MENDABLE = (ValueError, OSError, ImportError, FloatingPointError, SafetensorError, StrictDataclassError)


def line_for_the_user(error: BaseException, memory_advice: str) -> str | None:
    """An error as one line, with advice where memory ran out; None where it is a fault of the program."""
    line = " ".join(str(error).split())
    if isinstance(error, RuntimeError) and is_out_of_memory(error):
        return f"out of memory: {memory_advice} ({line[:200]})"
    return line if isinstance(error, MENDABLE) else None


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether an accelerator or the machine had no memory left for a tensor."""
    words = ("can't allocate memory", "not enough memory", "out of memory")
    return isinstance(error, torch.OutOfMemoryError) or any(word in str(error).lower() for word in words)
