"""W3C trace context: what is read of a header, and the spans that follow from it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from understudy.actors.trace import Trace, parsed, trace_of

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
hexes = st.characters(codec="ascii", categories=["Nd"], include_characters="abcdef")


@pytest.mark.promise(295)
@pytest.mark.parametrize(
    ("header", "flags"),
    [
        (f"00-{TRACE}-{SPAN}-01", "01"),
        (f"00-{TRACE}-{SPAN}-00", "00"),
        (f"00-{TRACE}-{SPAN}-ff", "03"),
        (f" 00-{TRACE}-{SPAN}-01\t", "01"),
        (f"cc-{TRACE}-{SPAN}-01", "01"),
        (f"cc-{TRACE}-{SPAN}-01-what-the-future-will-be-like", "01"),
    ],
)
def test_a_valid_header_is_read_also_of_a_higher_version(header: str, flags: str) -> None:
    assert parsed(header) == Trace(TRACE, SPAN, flags)


@pytest.mark.promise(295)
@pytest.mark.parametrize(
    "header",
    [
        "",
        "00",
        f"00-{TRACE}-{SPAN}",
        f"ff-{TRACE}-{SPAN}-01",
        f"00-{TRACE}-{SPAN}-01-",
        f"00-{TRACE}-{SPAN}-01-more",
        f"cc-{TRACE}-{SPAN}-01.more",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE.upper()}-{SPAN}-01",
        f"00-{TRACE}-{SPAN}-0G",
        f"0x-{TRACE}-{SPAN}-01",
        f"00-{TRACE[1:]}-{SPAN}-01",
        f"00-{TRACE}-{SPAN}a-01",
        f"00_{TRACE}_{SPAN}_01",
        "٠٠-" + TRACE + "-" + SPAN + "-01",
    ],
)
def test_an_invalid_header_is_none(header: str) -> None:
    assert parsed(header) is None


@given(st.text())
def test_no_text_breaks_the_reader(header: str) -> None:
    found = parsed(header)
    assert found is None or parsed(found.kept()) == found


@given(st.text(hexes, min_size=32, max_size=32), st.text(max_size=20), st.integers(1, 10**9))
def test_what_is_sent_is_a_valid_header_of_the_same_trace(trace: str, run: str, seq: int) -> None:
    made = Trace(trace)
    sent = parsed(made.header(run, seq))
    if trace == "0" * 32:
        assert sent is None
    else:
        assert sent == Trace(trace, made.span(run, seq))


@given(st.sampled_from(["", SPAN]), st.sampled_from(["00", "01", "02", "03"]))
def test_what_is_journalled_gives_the_trace_back(parent: str, flags: str) -> None:
    trace = Trace(TRACE, parent, flags)
    assert trace_of("7f3a", trace.kept()) == trace


def test_spans_differ_by_stream_and_number_and_a_run_without_a_trace_has_one_by_its_name() -> None:
    spans = {trace_of(run, "").span(run, seq) for run in ("7f3a", "7f3b") for seq in range(1, 100)}
    assert len(spans) == 198
    assert trace_of("7f3a", "") == trace_of("7f3a", "")
    assert trace_of("7f3a", "").id != trace_of("7f3b", "").id
