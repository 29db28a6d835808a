"""Checks of the numbers people write in specs: one clear error that names the option and the value."""

from __future__ import annotations

import sys
from math import nan

from understudy.actors.errors import SpecError


def check_count(option: str, value: object, *, least: int = 0) -> None:
    """Raise `SpecError` unless `value` is a whole number >= `least` (True and False are not numbers)."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise SpecError(f"{option} must be a whole number >= {least}, got {value!r}")


def check_number(option: str, value: object, *, least: float = 0.0, above: bool = False, unit: str = "") -> None:
    """Raise `SpecError` unless `value` is a finite number >= `least`, or > `least` with `above`."""
    number = value if isinstance(value, int | float) and not isinstance(value, bool) else nan
    if least <= number <= sys.float_info.max and not (above and number == least):
        return
    wanted = f"a finite number{' of ' + unit if unit else ''} {'>' if above else '>='} {least:g}"
    raise SpecError(f"{option} must be {wanted}, got {value!r}")


def check_kind(option: str, value: object, kind: type, wanted: str) -> None:
    """Raise `SpecError` unless `value` is a `kind`; `wanted` says so in words."""
    if not isinstance(value, kind):
        raise SpecError(f"{option} must be {wanted}, got {value!r}")
