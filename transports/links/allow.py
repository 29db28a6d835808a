"""What a peer may reach: which messages, and which targets, by the name of the peer. Pure.

Without a list a peer reaches every actor with every message that the actor accepts. With a list, a peer reaches what
is said for its name, else what is said for "*", else nothing. A name that begins with "@" or "$" (streams of the node,
names that nobody chose) is reached only where a pattern writes that character.

Ask with the whole path of the actor that was *found*: a short name would go past a pattern of whole paths. And answer
who is refused as if there were no such actor: else peers could ask for names until they know the tree.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from msgspec import Struct

from understudy.actors.errors import SpecError
from understudy.actors.messages import Message, tag_of
from understudy.transports.links.greetings import is_name

_RESERVED: Final = ("@", "$")
_ANY: Final = "*"


class Allow(Struct, frozen=True):
    """What one peer may reach. `messages`: classes or tags; `targets`: paths. None: all, () : nothing.

    A segment of a path may end in `*`, which stands for the rest of that segment: `desk/*` are the children of `desk`,
    not their children; `desk/writer*` those whose name begins so. Raises `SpecError` for a pattern that is none.
    """

    # A message class has any reply type.
    messages: tuple[type[Message[Any]] | str, ...] | None = None
    targets: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        for field, value in (("messages", self.messages), ("targets", self.targets)):
            if value is not None and not isinstance(value, tuple):
                raise SpecError(f"Allow: {field}={value!r}; a tuple, or None for all")
        for message in self.messages or ():
            _tag(message)
        for target in self.targets or ():
            _pattern(target)


class AllowList:
    """The rules of a node, ready to be asked. `rules` by name of peer or "*"; None: no list.

    Raises `SpecError` for a name that no peer can have.
    """

    def __init__(self, rules: Mapping[str, Allow] | None = None) -> None:
        for name, rule in (rules or {}).items():
            if name != _ANY and not is_name(name):
                raise SpecError(f"allow: {name!r} is no name of a node; 1 to 64 letters, digits, '-', '_', '.', or '*'")
            if not isinstance(rule, Allow):
                raise SpecError(f"allow: {name!r}: {rule!r} is no Allow(...)")
        default = {_ANY: Allow()} if rules is None else rules
        self._rules = {name: _Rule(rule) for name, rule in default.items()}

    def reaches(self, peer: str, target: str) -> bool:
        """Whether a peer may know of, watch and address the actor with this path."""
        rule = self._of(peer)
        return rule is not None and rule.target(target)

    def allows(self, peer: str, target: str, tag: str) -> bool:
        """Whether a peer may send it a message with this tag."""
        rule = self._of(peer)
        return rule is not None and rule.message(tag) and rule.target(target)

    def _of(self, peer: str) -> _Rule | None:
        return self._rules.get(peer) or self._rules.get(_ANY)


class _Rule:
    def __init__(self, rule: Allow) -> None:
        self._tags = None if rule.messages is None else {_tag(each) for each in rule.messages}
        self._targets = None if rule.targets is None else [_pattern(each) for each in rule.targets]

    def message(self, tag: str) -> bool:
        return not tag.startswith(_RESERVED) if self._tags is None else tag in self._tags

    def target(self, path: str) -> bool:
        if self._targets is None:
            return not any(part.startswith(_RESERVED) for part in path.split("/"))
        return any(pattern.fullmatch(path) for pattern in self._targets)


def _tag(message: object) -> str:
    if isinstance(message, type) and issubclass(message, Message):
        return tag_of(message)
    if not isinstance(message, str) or not message:
        raise SpecError(f"Allow: {message!r} is neither a message class nor a tag")
    return message


def _pattern(target: object) -> re.Pattern[str]:
    if not isinstance(target, str) or not all(target.split("/")) or _ANY in re.sub(r"\*(?=/|\Z)", "", target):
        raise SpecError(f"Allow: target {target!r}; a path such as 'desk/writer', '*' only at the end of a segment")
    return re.compile("/".join(_segment(part) for part in target.split("/")), re.DOTALL)


def _segment(part: str) -> str:
    if part == _ANY:
        return "[^/@$][^/]*"
    return re.escape(part[:-1]) + "[^/]*" if part.endswith(_ANY) else re.escape(part)
