"""The rules: what each fault adds, and that it adds nothing else."""

import hashlib
import json
import random
import re
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from understudy.demo import environment, findings
from understudy.demo.environment import Facts, Files, Licence, Problem, SizeChange
from understudy.demo.findings import RULES, Finding, Report, digest, judge, merge
from understudy.demo.markers import Requirement
from understudy.demo.report import audit
from understudy.demo.requirements import Graph, Pin, Unused
from understudy.demo.testing import SOUND, Site


@pytest.fixture
def site(tmp_path: Path) -> Site:
    """A small environment without findings: `app` was asked for and requires `lib`."""
    site = Site(tmp_path / "site-packages")
    site.plant("app", headers=(*SOUND, "Requires-Dist: lib>=1"))
    site.plant("lib", requested=False)
    return site


def test_a_sound_environment_has_no_findings(site: Site) -> None:
    report = audit(site.path)
    assert report.findings == ()
    assert [(one.key, one.version, one.licence) for one in report.distributions] == [
        ("app", "1.0", "MIT"),
        ("lib", "1.0", "MIT"),
    ]


def _licence(*headers: str) -> Callable[[Site], object]:
    return lambda site: site.plant("new", headers=headers)


def _remove(file: str) -> Callable[[Site], object]:
    return lambda site: (site.root / file).unlink()


FAULTS: list[tuple[str, Callable[[Site], object], list[tuple[str, str, str]]]] = [
    ("a sound one planted", lambda site: site.plant("new"), []),
    (
        "planted without a licence",
        _licence(),
        [("new", "missing-licence", "no licence expression, field or classifier")],
    ),
    (
        "planted with a licence file only",
        _licence("License-File: LICENSE"),
        [("new", "missing-licence", "no licence expression, field or classifier; 1 licence file(s) shipped")],
    ),
    (
        "planted with two licences",
        _licence("License-Expression: MIT", "Classifier: License :: OSI Approved :: Apache Software License"),
        [
            (
                "new",
                "contradictory-licence",
                "'MIT' against classifier 'License :: OSI Approved :: Apache Software License'",
            )
        ],
    ),
    (
        "planted, required by nobody",
        lambda site: site.plant("new", requested=False),
        [("new", "unused", "required by nothing and not requested")],
    ),
    (
        "planted with a requirement that is missing",
        lambda site: site.plant("new", headers=(*SOUND, "Requires-Dist: gone[x]>1")),
        [("new", "unsatisfied-pin", "requires gone[x]>1; gone is not installed")],
    ),
    (
        "planted with a pin that does not fit",
        lambda site: site.plant("new", headers=(*SOUND, "Requires-Dist: lib==2.*")),
        [("new", "unsatisfied-pin", "requires lib==2.*; installed is 1.0")],
    ),
    (
        "planted for another Python",
        lambda site: site.plant("new", headers=(*SOUND, "Requires-Python: >=4000")),
        [("new", "unsatisfied-python", "needs Python >=4000, this is *")],
    ),
    (
        "planted twice",
        lambda site: (site.plant("new", "1.0"), site.plant("new", "2.0")),
        [("new", "duplicate", "installed 2 times: new-1.0.dist-info, new-2.0.dist-info")],
    ),
    (
        "planted in a folder of another name",
        lambda site: site.plant("new", folder="old-1.0.dist-info"),
        [("old", "contradictory-metadata", "METADATA says 'new', the folder 'old'")],
    ),
    (
        "planted with an unreadable requirement",
        lambda site: site.plant("new", headers=(*SOUND, "Requires-Dist: lib => 1")),
        [("new", "broken-metadata", "cannot read requirement 'lib => 1'")],
    ),
    (
        "left over by an interrupted installer",
        lambda site: site.plant("new", folder="~ew-1.0.dist-info"),
        [
            ("~ew-1.0.dist-info", "broken-metadata", "~ew-1.0.dist-info: no valid name in folder or metadata"),
            ("~ew-1.0.dist-info", "contradictory-metadata", "METADATA says 'new', the folder '~ew'"),
        ],
    ),
    ("a file deleted", _remove("lib.py"), [("lib", "files-missing", "1 of 4 files missing: lib.py")]),
    (
        "a file edited",
        lambda site: site.write("lib.py", "x = 1000\n"),
        [("lib", "size-mismatch", "1 of 4 files differ: lib.py")],
    ),
    (
        "RECORD deleted",
        _remove("lib-1.0.dist-info/RECORD"),
        [("lib", "missing-record", "no RECORD: its files cannot be told")],
    ),
    (
        "METADATA deleted",
        _remove("lib-1.0.dist-info/METADATA"),
        [
            ("lib", "files-missing", "1 of 4 files missing: lib-1.0.dist-info/METADATA"),
            ("lib", "missing-metadata", "lib-1.0.dist-info has no METADATA file"),
        ],
    ),
    (
        "a marker of the request deleted",
        _remove("app-1.0.dist-info/REQUESTED"),
        [
            ("app", "files-missing", "1 of 5 files missing: app-1.0.dist-info/REQUESTED"),
            ("app", "unused", "required by nothing and not requested"),
        ],
    ),
]


@pytest.mark.parametrize(("fault", "expected"), [row[1:] for row in FAULTS], ids=[row[0] for row in FAULTS])
def test_a_distribution_planted_or_broken_changes_exactly_its_findings(
    site: Site, fault: Callable[[Site], object], expected: list[tuple[str, str, str]]
) -> None:
    site.plant("noisy", headers=(), requested=False)
    before = audit(site.path)
    fault(site)
    after = audit(site.path)
    added = [(one.distribution, one.rule, _without_version(one)) for one in set(after.findings) - set(before.findings)]
    assert sorted(added) == sorted(expected)
    assert set(before.findings) <= set(after.findings)
    assert (digest(after.findings) == digest(before.findings)) == (not expected)


def _without_version(one: Finding) -> str:
    return re.sub(r"this is .*", "this is *", one.detail)


def test_the_faults_above_cover_every_rule() -> None:
    assert {rule for _, _, expected in FAULTS for _, rule, _ in expected} == set(RULES)


def test_what_was_removed_again_leaves_no_trace(site: Site) -> None:
    before = audit(site.path)
    info = site.plant("new", headers=())
    assert digest(audit(site.path).findings) != digest(before.findings)
    for file in info.iterdir():
        file.unlink()
    info.rmdir()
    assert audit(site.path) == before


def test_the_same_environment_elsewhere_has_the_same_digest(tmp_path: Path) -> None:
    reports: list[Report] = []
    for place in ("one", "two/deeper"):
        site = Site(tmp_path / place)
        site.plant("bad", headers=("Requires-Dist: gone",), requested=False)
        (site.root / "bad.py").unlink()
        reports.append(audit(site.path))
    assert reports[0] == reports[1]
    assert len(reports[0].findings) == 4


# Licences


@pytest.mark.parametrize(
    ("licence", "contradicts"),
    [
        (Licence("MIT", classifiers=("License :: OSI Approved :: MIT License",)), False),
        (Licence("MIT", classifiers=("License :: OSI Approved",)), False),
        (Licence("Apache-2.0 AND MIT", classifiers=("License :: OSI Approved :: MIT License",)), False),
        (Licence("MIT AND LicenseRef-X", classifiers=("License :: Other/Proprietary License",)), False),
        (Licence("HPND", classifiers=("License :: OSI Approved :: MIT License",)), False),
        (Licence("MPL-2.0", classifiers=("License :: OSI Approved :: Mozilla Public License 2.0 (MPL 2.0)",)), False),
        (Licence("LGPL-3.0", classifiers=("License :: OSI Approved :: GNU General Public License v3 (GPLv3)",)), True),
        (Licence("MIT", classifiers=("License :: Other/Proprietary License",)), True),
        (Licence(line="BSD", classifiers=("License :: OSI Approved :: BSD License",)), False),
        (Licence(line="BSD", classifiers=("License :: OSI Approved :: MIT License",)), True),
        (Licence(line="MIT", whole=False, classifiers=("License :: OSI Approved :: BSD License",)), False),
        (Licence(line="Dual License", classifiers=("License :: OSI Approved :: BSD License",)), False),
    ],
)
def test_a_classifier_contradicts_when_its_family_is_not_declared(licence: Licence, contradicts: bool) -> None:
    found = judge(Facts("x", "x", "1", licence=licence), None, Graph())
    assert [one.rule for one in found] == ["contradictory-licence"] * contradicts


def test_licence_families_are_told_apart() -> None:
    assert findings.licence_families("GNU Lesser General Public License v3 (LGPLv3)") == {"LGPL"}
    assert findings.licence_families("AGPL-3.0-only") == {"AGPL"}
    assert findings.licence_families("MIT OR Apache-2.0") == {"MIT", "Apache"}
    assert findings.licence_families("permitted") == frozenset()


# Order, digest, JSON

_TEXTS = st.text(max_size=12) | st.sampled_from(
    ["/usr/lib/python3/x", "file:///home/me", "C:\\Users\\me", "a/__pycache__/b.pyc", "~/x", "x=/tmp/y", "\n| a |"]
)
_LICENCES = st.builds(
    Licence, expression=_TEXTS, line=_TEXTS, whole=st.booleans(), classifiers=st.tuples(_TEXTS), files=st.integers(0, 2)
)
_PROBLEMS = st.builds(Problem, kind=st.sampled_from(environment.PROBLEMS), detail=_TEXTS)
_FACTS = st.builds(
    Facts,
    key=st.just("x"),
    name=_TEXTS,
    version=_TEXTS,
    summary=_TEXTS,
    licence=_LICENCES,
    requires=st.lists(st.builds(Requirement, name=_TEXTS, specifier=_TEXTS), max_size=2).map(tuple),
    problems=st.lists(_PROBLEMS, max_size=3).map(tuple),
    copies=st.lists(_TEXTS, max_size=3).map(tuple),
)
_CHANGES = st.builds(SizeChange, file=_TEXTS, recorded=st.integers(0, 9), found=st.integers(0, 9))
_FILES = st.builds(
    Files,
    key=st.just("x"),
    recorded=st.booleans(),
    files=st.integers(0, 50),
    bytes=st.integers(0, 10**12),
    missing=st.lists(_TEXTS, max_size=5).map(tuple),
    missing_count=st.integers(0, 9),
    changed=st.lists(_CHANGES, max_size=5).map(tuple),
    changed_count=st.integers(0, 9),
)
_GRAPHS = st.builds(
    Graph,
    unused=st.lists(st.builds(Unused, key=st.sampled_from(["x", "y"]), extras=st.tuples(_TEXTS)), max_size=2).map(
        tuple
    ),
    pins=st.lists(
        st.builds(
            Pin,
            key=st.sampled_from(["x", "y"]),
            requirement=_TEXTS,
            needs=_TEXTS,
            problem=st.sampled_from(["missing", "incompatible"]),
            found=_TEXTS,
        ),
        max_size=2,
    ).map(tuple),
)


@given(_FACTS, st.none() | _FILES, _GRAPHS)
def test_facts_that_went_through_json_are_judged_the_same(facts: Facts, files: Files | None, graph: Graph) -> None:
    facts_again = msgspec.json.decode(msgspec.json.encode(facts), type=Facts)
    files_again = msgspec.json.decode(msgspec.json.encode(files), type=Files | None)
    graph_again = msgspec.json.decode(msgspec.json.encode(graph), type=Graph)
    assert judge(facts_again, files_again, graph_again) == judge(facts, files, graph)


@given(_FACTS, _FILES, _GRAPHS)
def test_no_finding_holds_a_path_a_cache_or_a_line_break_and_all_are_about_the_one(
    facts: Facts, files: Files, graph: Graph
) -> None:
    for one in judge(facts, files, graph):
        assert one.distribution == "x"
        assert one.rule in RULES
        text = msgspec.json.encode(one).decode()
        assert "__pycache__" not in text
        assert not re.search(r"/usr|/home|/tmp|Users|~/x|\\n", text)


def test_ordinary_text_with_slashes_is_left_as_it_is() -> None:
    shown = "1 of 4 files missing: ../../../bin/tool, pack/data/x.txt"
    files = Files("x", recorded=True, files=4, missing=("../../../bin/tool", "pack/data/x.txt"), missing_count=1)
    assert judge(Facts("x", "x", "1", licence=Licence("MIT")), files, Graph())[0].detail == shown


_FINDINGS = st.builds(
    Finding,
    distribution=st.sampled_from(["a", "b"]),
    rule=st.sampled_from(sorted(RULES)),
    severity=st.sampled_from(["info", "warning", "error"]),
    detail=st.text(max_size=3),
)


@given(st.lists(_FINDINGS, max_size=6), st.randoms(use_true_random=False))
def test_the_digest_depends_on_the_set_only(some: list[Finding], order: random.Random) -> None:
    shuffled = [*some, *some[:2]]
    order.shuffle(shuffled)
    assert merge(shuffled) == merge(some)
    assert digest(shuffled) == digest(some)


@given(st.sets(_FINDINGS, max_size=4), st.sets(_FINDINGS, max_size=4))
def test_other_findings_have_another_digest(some: set[Finding], others: set[Finding]) -> None:
    assert (digest(some) == digest(others)) == (some == others)


def test_the_digest_is_16_hexadecimal_digits_and_stays_what_it_is() -> None:
    text = '[{"detail":"d","distribution":"a","rule":"unused","severity":"info"}]'
    assert digest([Finding("a", "unused", "info", "d")]) == hashlib.sha256(text.encode()).hexdigest()[:16]
    assert digest(()) == "4f53cda18c2baa0c"


def test_a_report_survives_json_and_has_a_schema(site: Site) -> None:
    report = audit(site.path)
    assert msgspec.json.decode(msgspec.json.encode(report), type=Report) == report
    schema = msgspec.json.schema(Report)
    assert set(schema["$defs"]) == {"Report", "Audited", "Finding"}
    assert json.dumps(schema)
