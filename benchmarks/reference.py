"""The oracle and the floor: two files that are kept byte for byte as they were given, so neither is typed."""

from __future__ import annotations

import functools
import importlib
import sys
from hashlib import blake2b
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent


@functools.cache
def oracle() -> Any:  # an untyped module
    """`oracle.py`: expected values, the generator `Lehmer` and `digest`."""
    return importlib.import_module("benchmarks.oracle")


@functools.cache
def floor() -> Any:  # an untyped module
    """`floor.py`: the same work on plain asyncio. It imports the oracle as a module of its own, `oracle`."""
    sys.modules.setdefault("oracle", oracle())
    return importlib.import_module("benchmarks.floor")


@functools.cache
def floor_digest() -> str:
    """BLAKE2b, 8 bytes, of the bytes of `floor.py`, in hex: which floor a ratio refers to."""
    return blake2b((HERE / "floor.py").read_bytes(), digest_size=8).hexdigest()
