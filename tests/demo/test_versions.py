"""PEP 440, held against `packaging`."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from packaging.specifiers import InvalidSpecifier as TheirInvalidSpecifier
from packaging.specifiers import SpecifierSet
from packaging.version import InvalidVersion as TheirInvalidVersion
from packaging.version import Version as Theirs

from understudy.demo import versions

_small = st.integers(0, 3)
_release = st.lists(_small, min_size=1, max_size=3).map(lambda parts: ".".join(map(str, parts)))
_epoch = st.sampled_from(["", "", "", "0!", "1!"])
_pre = st.sampled_from(["", "", "a1", ".b.2", "rc0", "-alpha_1", "C2", "pre", "-preview3"])
_post = st.sampled_from(["", "", "", ".post1", "-1", "r2", ".rev", "post0"])
_dev = st.sampled_from(["", "", "", ".dev0", "dev2", "-DEV"])
_local = st.sampled_from(["", "", "", "+1", "+abc.1", "+ABC-2", "+1.a"])


def _spell(*parts: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.tuples(*parts).map("".join)


VERSIONS = _spell(st.sampled_from(["", "", "v"]), _epoch, _release, _pre, _post, _dev, _local)
_public = _spell(_epoch, _release, _pre, _post, _dev)
CLAUSES = st.one_of(
    _spell(st.sampled_from(["==", "!=", "== ", "==="]), VERSIONS),
    _spell(st.sampled_from(["==", "!="]), _epoch, _release, st.just(".*")),
    _spell(st.sampled_from(["<", "<=", ">", ">=", "~=", "> "]), _public),
    _spell(st.sampled_from(["~="]), _epoch, _release, st.just(".1"), _pre, _dev),
)
NEARLY = st.text("0123.!+-_*abrcdevpost v=<>~", max_size=10)


@given(VERSIONS | NEARLY)
def test_the_same_texts_are_versions_with_the_same_normal_spelling(text: str) -> None:
    try:
        theirs = str(Theirs(text))
    except TheirInvalidVersion:
        assert versions.normal(text) is None
    else:
        assert versions.normal(text) == theirs


@given(VERSIONS, VERSIONS)
def test_versions_have_the_same_order(left: str, right: str) -> None:
    ours = versions.parse(left).key(), versions.parse(right).key()
    theirs = Theirs(left), Theirs(right)
    assert (ours[0] < ours[1], ours[0] == ours[1]) == (theirs[0] < theirs[1], theirs[0] == theirs[1])


@given(st.lists(CLAUSES, max_size=3).map(",".join), VERSIONS)
def test_the_same_versions_satisfy_the_same_specifiers(specifier: str, version: str) -> None:
    try:
        theirs = SpecifierSet(specifier).contains(version, prereleases=True)
    except TheirInvalidSpecifier:
        with pytest.raises(versions.InvalidSpecifier):
            versions.contains(specifier, version)
    else:
        assert versions.contains(specifier, version) == theirs


@given(CLAUSES | NEARLY)
def test_the_same_texts_are_specifiers(text: str) -> None:
    try:
        SpecifierSet(text)
    except TheirInvalidSpecifier:
        with pytest.raises(versions.InvalidSpecifier):
            versions.check_specifier(text)
    else:
        versions.check_specifier(text)


@pytest.mark.parametrize(
    ("specifier", "version", "satisfied"),
    [
        ("", "anything", True),
        ("", "1.0.dev1", True),
        (">1.0", "1.0.post1", False),
        (">1.0", "1.0+local", False),
        (">1.0.post1", "1.0.post2", True),
        ("<1.0", "1.0rc1", False),
        ("<1.0rc2", "1.0rc1", True),
        ("==1.0", "1.0+local", True),
        ("==1.0+local", "1.0", False),
        ("==1.0.*", "1", True),
        ("!=1.0.*", "1.0.5", False),
        ("~=1.4.5", "1.4.9", True),
        ("~=1.4.5", "1.5", False),
        ("===legacy-build", "legacy-build", True),
        (">=1,<2", "1!1.5", False),
    ],
)
def test_well_known_cases_of_pep_440(specifier: str, version: str, satisfied: bool) -> None:
    assert versions.contains(specifier, version) is satisfied


def test_a_bad_version_and_a_bad_specifier_are_named() -> None:
    with pytest.raises(versions.InvalidVersion, match=r"not a version: '1\.\.0'"):
        versions.parse("1..0")
    with pytest.raises(versions.InvalidSpecifier, match="not a version specifier: '=>2'"):
        versions.contains(">=1,=>2", "1.0")


def test_a_number_too_long_to_convert_is_not_a_version() -> None:
    assert versions.normal("1." + "9" * 5_000) is None
