"""Requirements and markers, held against `packaging`."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from packaging.markers import Marker, UndefinedComparison
from packaging.requirements import InvalidRequirement
from packaging.requirements import Requirement as Theirs

from understudy.demo.markers import (
    Requirement,
    canonical,
    evaluate,
    interpreter,
    parse_requirement,
    valid_marker,
)

_variables = st.sampled_from(
    [
        "python_version",
        "python_full_version",
        "sys_platform",
        "platform_system",
        "os_name",
        "os.name",
        "implementation_name",
        "platform_python_implementation",
        "extra",
    ]
)
_values = st.sampled_from(
    ["3.8", "3.11", "3.9.*", "4", "linux", "win32", "posix", "CPython", "cpython", "dev", "Dev_X"]
)
_operators = st.sampled_from(["==", "!=", "<=", ">=", "<", ">", "~=", "===", "in", "not in"])
_quotes = st.sampled_from(['"', "'"])


@st.composite
def _comparisons(draw: st.DrawFn) -> str:
    quote = draw(_quotes)
    sides = [draw(_variables), f"{quote}{draw(_values)}{quote}"]
    if draw(st.booleans()):
        sides.reverse()
    return f"{sides[0]} {draw(_operators)} {sides[1]}"


MARKERS = st.recursive(
    _comparisons(),
    lambda inner: st.one_of(
        st.tuples(inner, st.sampled_from([" and ", " or "]), inner).map("".join), inner.map(lambda text: f"({text})")
    ),
    max_leaves=5,
)


@given(MARKERS, st.sampled_from(["", "dev", "dev-x"]))
def test_markers_hold_when_packaging_says_so(marker: str, extra: str) -> None:
    try:
        theirs = Marker(marker).evaluate({"extra": extra})
    except UndefinedComparison:
        return  # such as `os_name ~= "posix"`: they refuse, we count it as true
    assert evaluate(marker, extra=extra) == theirs


def test_this_interpreter_is_described_as_packaging_describes_it() -> None:
    from packaging.markers import default_environment

    assert dict(interpreter()) == dict(default_environment())


@pytest.mark.parametrize(
    ("marker", "holds"),
    [
        ("", True),
        ('moon_phase == "full"', True),
        ('moon_phase == "full" and python_version < "3"', False),
        ('python_version < "3" or', True),
        ('python_version < "3" python_version < "3"', True),
        ("os_name", True),
        ('("a" == "b")', True),
    ],
)
def test_what_cannot_be_understood_counts_as_true(marker: str, holds: bool) -> None:
    assert evaluate(marker) is holds


@pytest.mark.parametrize("marker", ["(", "os_name ==", "'a' == 'b'", "os_name = 'x'", "os_name == 'x' or", "§"])
def test_a_marker_that_cannot_be_read_is_told_apart(marker: str) -> None:
    assert not valid_marker(marker)


def test_a_readable_marker_is_valid_whatever_it_names() -> None:
    assert valid_marker('moon_phase in "full new"')
    assert valid_marker("")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("idna", Requirement("idna")),
        ("idna>=2.5, <4", Requirement("idna", specifier=">=2.5,<4")),
        ("idna (>=2.5)", Requirement("idna", specifier=">=2.5")),
        ("httpx [http2, cli] >=0.27", Requirement("httpx", ("http2", "cli"), ">=0.27")),
        ("tool @ file:///home/me/tool ; os_name == 'nt'", Requirement("tool", marker="os_name == 'nt'")),
        ("rich ; extra == 'cli'", Requirement("rich", marker="extra == 'cli'")),
        ("rich;extra=='cli'", Requirement("rich", marker="extra=='cli'")),
    ],
)
def test_a_requirement_is_read(text: str, expected: Requirement) -> None:
    assert parse_requirement(text) == expected


@pytest.mark.parametrize("text", ["", "-x", "a b", "a >", "a[b", "a[,]", "a=>1", "a (>=1", "a>=1 extra"])
def test_what_is_no_requirement_is_none(text: str) -> None:
    assert parse_requirement(text) is None


_NAMES = st.sampled_from(["idna", "A.b-c_d", "x", "zope.interface"])
_EXTRAS = st.sampled_from(["", "[a]", " [a, b-c]", "[]"])
_SPECIFIERS = st.sampled_from(
    ["", ">=1", " ==1.*, !=1.2", "(>=1.0,<2)", "~=1", "~=1.0", ">=1.*", "=1", " @ file:///x/y"]
)
_TAILS = st.sampled_from(["", ' ; os_name == "nt"', '; extra == "dev" and os_name == "posix"', " trailing"])


@given(st.tuples(_NAMES, _EXTRAS, _SPECIFIERS, _TAILS).map("".join))
def test_the_same_texts_are_requirements_with_the_same_parts(text: str) -> None:
    ours = parse_requirement(text)
    try:
        theirs = Theirs(text)
    except InvalidRequirement:
        assert ours is None
        return
    assert ours is not None
    assert (ours.name, set(ours.extras)) == (theirs.name, theirs.extras)
    assert sorted(ours.specifier.split(",")) == sorted(str(theirs.specifier).split(","))


def test_names_are_compared_by_pep_503_and_nothing_is_stripped() -> None:
    assert canonical("Zope._.Interface") == "zope-interface"
    assert canonical("attrs ") == "attrs "
