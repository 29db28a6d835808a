"""The ring of consistent hashing: few keys move, and shares are even."""

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from understudy.supervisors.hashing import Ring

KEYS = [f"customer-{n}".encode() for n in range(400)]

members = st.sets(st.text("abcdef/0123456789", min_size=1, max_size=12), min_size=1, max_size=8)


@pytest.mark.promise(114)
@settings(max_examples=40, deadline=None)
@given(members, st.data())
def test_when_a_member_goes_only_its_keys_move_and_when_it_comes_back_they_return(
    names: set[str], data: st.DataObject
) -> None:
    gone = data.draw(st.sampled_from(sorted(names)))
    before, after = Ring(names), Ring(names - {gone})
    for key in KEYS:
        owner = before.pick(key)
        if owner == gone:
            assert after.pick(key) in names - {gone} or len(names) == 1
        else:
            assert after.pick(key) == owner
    again = Ring(sorted(names, reverse=True))
    assert [again.pick(key) for key in KEYS] == [before.pick(key) for key in KEYS]


@pytest.mark.promise(114)
def test_shares_are_even_within_a_third_and_the_same_on_every_machine() -> None:
    ring = Ring(f"pool/{n}" for n in range(1, 11))
    shares = Counter(ring.pick(str(n).encode()) for n in range(20_000))
    assert len(shares) == 10
    assert all(2_000 * 0.65 < share < 2_000 * 1.35 for share in shares.values())
    assert [ring.pick(key) for key in KEYS[:3]] == PINNED


PINNED = ["pool/8", "pool/10", "pool/9"]


def test_an_empty_ring_has_no_member() -> None:
    assert Ring(()).pick(b"x") is None
    assert len(Ring(("a", "a", "b"), points=16)) == 32
