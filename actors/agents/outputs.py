"""What an agent must answer: a type form, its JSON schema, and the check of an answer.

An answer that is empty, blank or does not fit the schema never passes. Struct members of a union that have no tag
get one (in `type`, or the field of those that have a tag), by subclasses made on the fly, so that a decoder can tell
them apart.
"""

from __future__ import annotations

import types
import typing
from collections.abc import Iterable
from functools import reduce
from operator import or_
from typing import Any, get_args, get_origin

import msgspec
from msgspec import Struct

from understudy.actors.agents.schema import schema_of, strict
from understudy.actors.errors import SpecError


class OutputSpec:
    """The checker of one agent's answers. `form` is `str` or any type form that msgspec decodes.

    Raises `SpecError`, when made, for a form msgspec cannot decode.
    """

    # A type form (a union, a generic alias) has no precise type before TypeForm is standard.
    def __init__(self, form: Any, where: str) -> None:
        self.form = form
        self.text = form is str
        self._wire = form if self.text else _tagged(form)
        try:
            self._decoder: msgspec.json.Decoder[Any] = msgspec.json.Decoder(self._wire)
            self.schema: dict[str, Any] | None = None if self.text else strict(schema_of(self._wire))
        except (TypeError, NotImplementedError) as error:
            raise SpecError(f"{where}: output {form!r} cannot be decoded: {error}") from error

    def accept(self, content: str) -> tuple[str, str]:
        """(canonical JSON, "") of a valid answer, else ("", what is wrong and where)."""
        text = _unfenced(content)
        if not text:
            return "", "the answer is empty"
        if self.text:
            return msgspec.json.encode(content.encode("utf-8", "replace").decode()).decode(), ""
        try:
            value = self._decoder.decode(text.encode("utf-8", "replace"))
            return msgspec.json.encode(value).decode(), ""
        except (msgspec.MsgspecError, ValueError, OverflowError, RecursionError) as error:
            return "", str(error)

    def decode(self, output: str) -> Any:
        """The value of an `accept`ed answer, None for ''. Raises `msgspec.MsgspecError`."""
        if not output:
            return None
        return self._decoder.decode(output.encode()) if not self.text else msgspec.json.decode(output, type=str)

    def members(self) -> tuple[type, ...]:
        """The classes that an answer can be an instance of, as the user wrote them."""
        return tuple(part for part in _parts(self.form) if isinstance(part, type) and part is not Any)

    def class_of(self, value: object) -> type:
        """The user's class of a decoded answer."""
        return next((m for m in self.members() if isinstance(value, m)), type(value))


def _unfenced(content: str) -> str:
    """The text without blanks and without the code fence that some models put around JSON."""
    text = content.strip()
    if text.startswith("```") and text.endswith("```") and "\n" in text:
        text = text[text.index("\n") + 1 : -3].strip()
    return text


def _parts(form: Any) -> tuple[Any, ...]:
    return get_args(form) if get_origin(form) in (types.UnionType, typing.Union) else (form,)


def _tagged(form: Any) -> Any:
    parts = _parts(form)
    untagged = [p for p in parts if isinstance(p, type) and issubclass(p, Struct) and p.__struct_config__.tag is None]
    if len(untagged) < 2 and not (untagged and len(_structs(parts)) > 1):
        return form
    configs = [p.__struct_config__ for p in _structs(parts)]
    # One decoder wants one field: that of the members which have a tag, such as messages that are routed on.
    field = next((config.tag_field for config in configs if config.tag_field is not None), "type")
    made = {p: msgspec.defstruct(p.__name__, [], bases=(p,), tag=True, tag_field=field) for p in untagged}
    return reduce(or_, [made.get(p, p) if isinstance(p, type) else p for p in parts])


def _structs(parts: Iterable[Any]) -> list[type[Struct]]:
    return [p for p in parts if isinstance(p, type) and issubclass(p, Struct)]
