"""What an agent must answer: a type form, its JSON schema, and the check of an answer.

An answer that is empty, says nothing or does not fit the schema never passes. A model of pydantic is known by what it
can do (`model_json_schema`, `model_validate_json`, `model_dump_json`); pydantic itself is not needed. Struct members of
a union that have no tag get one (in `type`, or the field of those that have a tag), by subclasses made on the fly, so
that a decoder can tell them apart.
"""

from __future__ import annotations

import types
import typing
from collections.abc import Collection, Iterable, Iterator, Mapping
from functools import reduce
from operator import or_
from typing import Any, Protocol, cast, get_args, get_origin

import msgspec
from msgspec import Struct

from understudy.actors.agents.checks import PLACEHOLDERS, empty
from understudy.actors.agents.schema import schema_of, strict
from understudy.actors.errors import SpecError


class _Pydantic(Protocol):
    """What a model class of pydantic 2 can do."""

    @classmethod
    def model_json_schema(cls) -> dict[str, Any]: ...
    @classmethod
    def model_validate_json(cls, json_data: str | bytes, /) -> object: ...
    def model_dump_json(self) -> str: ...


class OutputSpec:
    """The checker of one agent's answers. `form` is `str`, any type form that msgspec decodes, or a pydantic model.

    `placeholders` are texts that count as no answer (see `checks.empty`). Raises `SpecError`, when made, for a form
    that cannot be decoded.
    """

    # A type form (a union, a generic alias) has no precise type before TypeForm is standard.
    def __init__(self, form: Any, where: str, placeholders: Collection[str] = PLACEHOLDERS) -> None:
        self.form = form
        self.text = form is str
        self._placeholders = frozenset(placeholders)
        self._model: type[_Pydantic] | None = form if _is_pydantic(form) else None
        self._wire = form if self.text or self._model is not None else _tagged(form)
        try:
            self.schema: dict[str, Any] | None = None if self.text else strict(self._schema())
            self._decoder: msgspec.json.Decoder[Any] | None = (
                None if self._model is not None else msgspec.json.Decoder(self._wire)
            )
        except (TypeError, NotImplementedError) as error:
            raise SpecError(f"{where}: output {form!r} cannot be decoded: {error}") from error
        self._words = frozenset(_enumerated(self.schema))

    def _schema(self) -> dict[str, Any]:
        return self._model.model_json_schema() if self._model is not None else schema_of(self._wire)

    def accept(self, content: str) -> tuple[str, str]:
        """(canonical JSON, "") of a valid answer that says something, else ("", what is wrong and where)."""
        text = _unfenced(content)
        if not text:
            return "", "the answer is empty"
        value: object = content.encode("utf-8", "replace").decode()
        try:
            if not self.text:
                value = self._parse(text.encode("utf-8", "replace"))
            if hollow := empty(value, self._placeholders, self._words):
                return "", hollow
            return self._dump(value), ""
        except (msgspec.MsgspecError, ValueError, OverflowError, RecursionError) as error:
            return "", str(error)

    # What it decodes to is what the form says.
    def _parse(self, data: bytes) -> Any:
        if self._model is not None:
            return self._model.model_validate_json(data)
        assert self._decoder is not None  # noqa: S101  # one of the two
        return self._decoder.decode(data)

    def _dump(self, value: object) -> str:
        if self._model is not None:
            return cast("_Pydantic", value).model_dump_json()
        return msgspec.json.encode(value).decode()

    def decode(self, output: str) -> Any:
        """The value of an `accept`ed answer, None for "". Raises `msgspec.MsgspecError`."""
        if not output:
            return None
        if self.text:
            return msgspec.json.decode(output, type=str)
        try:
            return self._parse(output.encode())
        except ValueError as error:
            if self._model is None:
                raise
            raise msgspec.ValidationError(str(error)) from error  # as of any other form

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


def _is_pydantic(form: object) -> bool:
    needed = ("model_json_schema", "model_validate_json", "model_dump_json")
    return isinstance(form, type) and all(callable(getattr(form, name, None)) for name in needed)


def _enumerated(schema: object) -> Iterator[str]:
    """The texts that a schema lists, wherever: one of them is a choice, not a text of the model's own."""
    if isinstance(schema, Mapping):
        for keyword, held in cast("Mapping[str, object]", schema).items():
            if keyword in ("enum", "const"):
                listed = cast("list[object]", held) if isinstance(held, list) else [held]
                yield from (item for item in listed if isinstance(item, str))
            else:
                yield from _enumerated(held)
    elif isinstance(schema, list | tuple):
        for held in cast("Iterable[object]", schema):
            yield from _enumerated(held)


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
