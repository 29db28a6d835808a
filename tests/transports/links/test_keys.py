"""Where the secret of a link comes from, and that it goes nowhere."""

from __future__ import annotations

import copy
import logging
import os
import pickle
import threading
from pathlib import Path

import pytest

from understudy.actors.errors import SpecError
from understudy.actors.redaction import key_beside
from understudy.transports.links.keys import LinkSecret, link_secret

TEXT = "correct horse battery staple"
SAME = LinkSecret(TEXT.encode())


def kept(path: Path, text: str = TEXT, mode: int = 0o600) -> Path:
    path.write_text(text)
    path.chmod(mode)
    return path


def equal(one: LinkSecret | None, other: LinkSecret | None) -> bool:
    return one is not None and other is not None and one.code(b"role", b"text") == other.code(b"role", b"text")


@pytest.mark.promise(315)
def test_the_secret_is_looked_for_in_one_order(tmp_path: Path) -> None:
    """Given, variable, file of the variable, file beside the journal; the first that is there counts."""
    journal = tmp_path / "desk.db"
    assert link_secret(journal=journal, environ={}) is None
    made = link_secret(journal=journal, make=True, environ={})
    by_file = {"UNDERSTUDY_SECRET_FILE": str(kept(tmp_path / "file", "from the file, 16 bytes"))}
    by_value = {**by_file, "UNDERSTUDY_SECRET": "from the variable, 16 bytes"}
    found = [
        link_secret(b"given, and long enough", journal=journal, environ=by_value),
        link_secret(journal=journal, environ=by_value),
        link_secret(journal=journal, environ=by_file),
        link_secret(journal=journal, environ={}),
    ]
    assert [each.origin for each in found if each is not None] == [
        "secret=",
        "UNDERSTUDY_SECRET",
        f"UNDERSTUDY_SECRET_FILE {str(tmp_path / 'file')!r}",
        f"the key file {str(tmp_path / 'desk.db-link-key')!r}",
    ]
    assert len({each.code(b"role") for each in found if each is not None}) == 4
    assert equal(found[-1], made)
    assert link_secret(environ={}) is None


@pytest.mark.promise(315)
def test_one_secret_is_the_same_whichever_way_it_comes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNDERSTUDY_SECRET", TEXT)
    file = kept(tmp_path / "secret", f"{TEXT}\r\n")
    for given in (None, TEXT, TEXT.encode(), f"{TEXT}\n", file, SAME):
        assert equal(link_secret(given), SAME)
    assert not equal(link_secret(TEXT + "!"), SAME)
    assert not equal(link_secret(" " + TEXT), SAME)


@pytest.mark.promise(315)
def test_the_key_file_is_made_once_with_mode_0600_and_is_not_that_of_redaction(tmp_path: Path) -> None:
    journal = tmp_path / "desk.db"
    old = os.umask(0)
    try:
        made = link_secret(journal=journal, make=True, environ={})
    finally:
        os.umask(old)
    file = tmp_path / "desk.db-link-key"
    assert file.stat().st_mode & 0o777 == 0o600
    assert len(file.read_bytes()) == 32
    assert equal(link_secret(journal=journal, make=True, environ={}), made)
    assert key_beside(str(journal)) != file.read_bytes()
    assert {each.name for each in tmp_path.iterdir()} == {"desk.db-key", "desk.db-link-key"}


def test_however_many_make_the_key_file_at_once_all_get_one_key(tmp_path: Path) -> None:
    """Nobody finds it empty, and nothing is left over."""
    journal, found, ready = tmp_path / "desk.db", [], threading.Barrier(8)

    def make() -> None:
        ready.wait(60)
        secret = link_secret(journal=journal, make=True, environ={})
        found.append(secret.code(b"role") if secret else b"")

    threads = [threading.Thread(target=make) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(found) == 8
    assert len(set(found)) == 1
    assert [each.name for each in tmp_path.iterdir()] == ["desk.db-link-key"]


def test_a_file_system_without_links_keeps_a_key_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(made: str, path: str) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    made = link_secret(journal=tmp_path / "desk.db", make=True, environ={})
    assert equal(link_secret(journal=tmp_path / "desk.db", environ={}), made)
    assert [each.name for each in tmp_path.iterdir()] == ["desk.db-link-key"]
    assert (tmp_path / "desk.db-link-key").stat().st_mode & 0o777 == 0o600


@pytest.mark.promise(315)
@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o620, 0o644, 0o601])
def test_a_file_that_others_may_read_or_change_is_refused(tmp_path: Path, mode: int) -> None:
    journal = tmp_path / "desk.db"
    file = kept(tmp_path / "desk.db-link-key", mode=mode)
    for way in ({"given": file}, {"journal": journal}, {"journal": journal, "make": True}):
        with pytest.raises(SpecError, match=f"desk.db-link-key' has mode 0{mode:o}: others may read or change it"):
            link_secret(environ={}, **way)
    with pytest.raises(SpecError, match=r"UNDERSTUDY_SECRET_FILE .* has mode"):
        link_secret(environ={"UNDERSTUDY_SECRET_FILE": str(file)})


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_a_file_of_another_user_is_refused(tmp_path: Path) -> None:
    file = kept(tmp_path / "secret")
    os.chown(file, 12_345, -1)
    with pytest.raises(SpecError, match="belongs to another user, 12345"):
        link_secret(file)


@pytest.mark.promise(315)
def test_what_is_no_secret_is_refused_by_place_and_never_by_value(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe", 0o600)
    short = kept(tmp_path / "short", "hunter2\n")
    cases: list[tuple[object, dict[str, str], str]] = [
        (b"hunter2", {}, "secret=: a secret of 7 bytes; 16 to 4,096"),
        ("hunter2" * 600, {}, "secret=: a secret of 4200 bytes; 16 to 4,096"),
        (None, {"UNDERSTUDY_SECRET": ""}, "UNDERSTUDY_SECRET: a secret of 0 bytes; 16 to 4,096"),
        (None, {"UNDERSTUDY_SECRET": "hunter2"}, "UNDERSTUDY_SECRET: a secret of 7 bytes; 16 to 4,096"),
        (None, {"UNDERSTUDY_SECRET_FILE": ""}, "UNDERSTUDY_SECRET_FILE '': No such file or directory"),
        (short, {}, f"secret= {str(short)!r}: a secret of 7 bytes; 16 to 4,096"),
        (tmp_path / "none", {}, f"secret= {str(tmp_path / 'none')!r}: No such file or directory"),
        (tmp_path / "pipe", {}, f"secret= {str(tmp_path / 'pipe')!r} is not a regular file"),
        (tmp_path, {}, f"secret= {str(tmp_path)!r} is not a regular file"),
        (Path("nul\0"), {}, "secret= 'nul\\x00': a path does not have NUL characters"),
        (7, {}, "secret= takes bytes, a text or a Path, not int"),
    ]
    for given, environ, text in cases:
        with pytest.raises(SpecError) as raised:
            link_secret(given, environ=environ)  # type: ignore[arg-type]  # as a program without types does
        assert str(raised.value) == text
        assert "hunter2" not in str(raised.value)


def test_a_key_file_that_was_cut_is_refused_and_kept(tmp_path: Path) -> None:
    file = kept(tmp_path / "desk.db-link-key", "")
    with pytest.raises(SpecError, match=r"desk\.db-link-key: 0 bytes are no key; restore the file, or remove it"):
        link_secret(journal=tmp_path / "desk.db", make=True, environ={})
    assert file.exists()


@pytest.mark.promise(315)
def test_a_secret_is_in_no_repr_log_or_pickle(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        logging.getLogger("understudy.links").warning("%r %s", SAME, SAME)
    shown = [repr(SAME), str(SAME), f"{SAME}", caplog.text, repr(vars(type(SAME)))]
    values = [TEXT, SAME._key.hex(), repr(SAME._key)]
    assert [value for value in values for text in shown if value in text] == []
    assert repr(SAME) == "LinkSecret('***', origin='secret=')"
    for act in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match="not pickled"):
            act(SAME)
    assert TEXT.encode() not in [getattr(SAME, name) for name in SAME.__slots__]


def test_a_code_tells_its_parts_apart() -> None:
    codes = {
        SAME.code(b"dialer", b"ab", b"c"),
        SAME.code(b"dialer", b"a", b"bc"),
        SAME.code(b"listener", b"ab", b"c"),
        SAME.code(b"dialer", b"ab", b"c", b""),
        SAME.code(b"dialerab", b"c"),
    }
    assert len(codes) == 5
    assert SAME.checks(SAME.code(b"dialer", b"a"), b"dialer", b"a")
    assert not SAME.checks(SAME.code(b"dialer", b"a"), b"listener", b"a")
    assert not SAME.checks(b"", b"dialer", b"a")
