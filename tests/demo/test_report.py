"""The report as Markdown and JSON, and how it gets onto the disk."""

import json
import os
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from understudy.demo import report as reports
from understudy.demo.findings import Audited, Finding, Report, digest
from understudy.demo.report import ReportNotWritten, human_size, to_json, to_markdown, write_report

REPORT = Report(
    distributions=(
        Audited("app", "App", "1.0", "MIT", 3, 2_500),
        Audited("lib", "lib", "2.0rc1", "", 1_200, 40_000_000),
    ),
    findings=(
        Finding("app", "unused", "info", "required by nothing and not requested"),
        Finding("lib", "missing-licence", "warning", "no licence expression, field or classifier"),
        Finding("lib", "unsatisfied-pin", "error", "requires x>1; x is not installed"),
    ),
    batches=(("app",), ("lib",)),
)

MARKDOWN = """\
# Audit of a Python environment

| Summary |  |
| --- | --- |
| Distributions | 2 |
| Files by RECORD | 1,203 |
| Size by RECORD | 40 MB |
| Findings | 3 (1 error, 1 warning, 1 info) |
| Digest of findings | `{digest}` |

## Findings

### 1 error

| Distribution | Rule | Detail |
| --- | --- | --- |
| lib | unsatisfied-pin | requires x>1; x is not installed |

### 1 warning

| Distribution | Rule | Detail |
| --- | --- | --- |
| lib | missing-licence | no licence expression, field or classifier |

### 1 info

| Distribution | Rule | Detail |
| --- | --- | --- |
| app | unused | required by nothing and not requested |

## Distributions

| Name | Version | Licence | Files | Size |
| --- | --- | --- | ---: | ---: |
| App | 1.0 | MIT | 3 | 2.5 kB |
| lib | 2.0rc1 | – | 1200 | 40 MB |
"""


def test_the_markdown_reads_like_this() -> None:
    assert to_markdown(REPORT) == MARKDOWN.format(digest=digest(REPORT.findings))
    assert to_markdown(REPORT, "0123456789abcdef") == MARKDOWN.format(digest="0123456789abcdef")


def test_an_empty_report_says_none_and_names_what_was_not_audited() -> None:
    text = to_markdown(Report(not_audited=("left", "out")))
    assert "| Findings | none |" in text
    assert "## Findings\n\nNone.\n" in text
    assert "**Not audited:** left, out" in text


@given(st.text(max_size=20))
def test_foreign_text_cannot_break_the_table_or_add_markup(text: str) -> None:
    line = Audited("x", text, "1", text)
    rows = to_markdown(Report(distributions=(line,), findings=(Finding("x", "unused", "info", text),))).splitlines()
    assert len(rows) == len(to_markdown(Report((Audited("x", "x", "1"),), REPORT.findings[:1])).splitlines())
    assert not any("<" in row or "\x1b" in row for row in rows)


def test_the_json_is_the_report_with_its_digest() -> None:
    text = to_json(REPORT)
    assert text.endswith(b"}\n")
    assert json.loads(text)["digest"] == digest(REPORT.findings)
    assert msgspec.json.decode(text, type=Report) == REPORT


@pytest.mark.parametrize(
    ("target", "stem"),
    [("", "audit"), ("sub/", "sub/audit"), ("out", "out"), ("out.md", "out"), ("out.json", "out"), ("v1.2", "v1.2")],
)
def test_both_files_are_written_side_by_side(tmp_path: Path, target: str, stem: str) -> None:
    (tmp_path / "sub").mkdir()
    written = write_report(f"{tmp_path}/{target}", REPORT)
    assert written == (tmp_path / f"{stem}.md", tmp_path / f"{stem}.json")
    assert written[0].read_text(encoding="utf-8") == to_markdown(REPORT)
    assert written[1].read_bytes() == to_json(REPORT)


def test_a_report_that_stood_there_is_replaced_and_nothing_else_is_left(tmp_path: Path) -> None:
    write_report(tmp_path, Report())
    write_report(tmp_path, REPORT)
    assert sorted(os.listdir(tmp_path)) == ["audit.json", "audit.md"]
    assert msgspec.json.decode((tmp_path / "audit.json").read_bytes(), type=Report) == REPORT


def test_a_folder_that_is_not_there_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(ReportNotWritten) as caught:
        write_report(tmp_path / "nowhere" / "audit.md", REPORT)
    assert str(caught.value) == f"cannot write {tmp_path}/nowhere/audit.md: No such file or directory"
    assert isinstance(caught.value, OSError)
    assert caught.value.path == tmp_path / "nowhere" / "audit.md"


def test_a_file_in_place_of_a_folder_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ReportNotWritten, match=r"cannot write .*file/audit\.md: Not a directory"):
        write_report(tmp_path / "file" / "audit.md", REPORT)


def test_when_one_of_the_two_cannot_be_written_the_other_stays_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "audit.md").write_text("before")
    (tmp_path / "audit.json").mkdir()
    with pytest.raises(ReportNotWritten, match=r"cannot write .*audit\.json: Is a directory"):
        write_report(tmp_path, REPORT)
    assert sorted(os.listdir(tmp_path)) == ["audit.json", "audit.md"]
    assert (tmp_path / "audit.md").read_text() == "before"


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1_000, "1.0 kB"),
        (9_949, "9.9 kB"),
        (9_999, "10 kB"),
        (999_499, "999 kB"),
        (999_500, "1.0 MB"),
        (34_400_000, "34 MB"),
        (2_100_000_000, "2.1 GB"),
        (5 * 10**15, "5000 TB"),
    ],
)
def test_sizes_are_shown_with_two_or_three_digits(count: int, text: str) -> None:
    assert human_size(count) == text


def test_the_audit_of_this_environment_takes_all_of_it() -> None:
    report = reports.audit()
    assert {"msgspec", "anyio"} <= {one.key for one in report.distributions}
    assert sum(one.files for one in report.distributions) > 100
    assert reports.audit() == report
