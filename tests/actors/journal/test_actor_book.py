"""What is kept of plain actors: a snapshot of it is worth as much as all the events before it."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from understudy.actors.durable.book import Book
from understudy.actors.journal.durable_events import ActorsWorked, Handled, Sent, Tried, packed, unpacked

PATHS = ("a", "b", "a/c")
ACTS = st.lists(
    st.tuples(st.sampled_from(["send", "done", "state", "vain", "dead", "revive"]), st.integers(0, 5)), max_size=12
)


def acted(book: Book, kind: str, number: int) -> ActorsWorked:
    """The event of an act that could be, as things stand."""
    path = PATHS[number % 3]
    waiting, dead = sorted(book.of(path)), sorted(id for id, sent in book.dead.items() if sent.to == path)
    if kind == "done" and waiting:
        sent = Sent(book.next, "b", path, "Tell", f"on {number}")
        return ActorsWorked(handled=(Handled(path, "9", tuple(waiting[: number + 1]), packed([sent])),))
    if kind == "state":
        return ActorsWorked(handled=(Handled(path, str(number)),))
    if kind == "vain" and waiting:
        return ActorsWorked(tried=(Tried(waiting[0], path, number, "no"),))
    if kind == "dead" and waiting:
        return ActorsWorked(tried=(Tried(waiting[-1], path, 3, "no", dead=True),))
    if kind == "revive" and dead:
        return ActorsWorked(tried=(Tried(dead[0], path, 0),))
    bodies = ["x" * 700 * number, "", "é"]
    sent_now = [Sent(book.next + n, path, "b" if n else "", "Add", body) for n, body in enumerate(bodies)]
    return ActorsWorked(packed(sent_now))


def shown(book: Book) -> object:
    return book.next, book.states, book.waiting, book.dead, book.tried, book.size


@given(ACTS, ACTS)
def test_a_snapshot_is_worth_all_events_before_it(before: list[tuple[str, int]], after: list[tuple[str, int]]) -> None:
    whole, again = Book(), Book()
    for act in before:
        whole.apply(acted(whole, *act))
    for kept in whole.snapshot():
        assert not again.complete
        again.apply(kept)
    assert again.complete
    assert shown(again) == shown(whole)
    for act in after:
        event = acted(whole, *act)
        whole.apply(event)
        again.apply(event)
    assert shown(again) == shown(whole)


@given(st.lists(st.tuples(st.sampled_from(PATHS), st.sampled_from(["", "x" * 600, "y"])), max_size=20))
def test_messages_are_the_same_after_they_were_packed(messages: list[tuple[str, str]]) -> None:
    sent = [Sent(id, to, "", "Add", body) for id, (to, body) in enumerate(messages, 1)]
    assert sorted(unpacked(packed(sent)), key=lambda each: each.id) == sent
