"""What is taken for a secret, what is left in its place, and what can be turned back."""

import json
import re
from typing import Any

import anyio
import msgspec
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from msgspec import Struct

from understudy import Message, Redact, Secret
from understudy.actors.errors import SpecError
from understudy.actors.redaction import MARK, Redactor, key_beside

KEY = b"0123456789abcdef"
PEM = "-----BEGIN RSA PRIVATE KEY-----\nMIIEow\nIBAAKCAQEA\n-----END RSA PRIVATE KEY-----"
SECRETS = {
    "api-key": ["sk-proj-abcdefghij0123456789", "sk-ant-api03-" + "a_b-" * 10],
    "stripe-key": ["sk_live_" + "a1" * 12, "rk_test_" + "B2" * 10],
    "github-token": ["ghp_" + "a" * 36, "github_pat_" + "A1_" * 10],
    "slack-token": ["xoxb-123456789012-abcdefghijkl"],
    "aws-key": ["AKIAIOSFODNN7EXAMPLE", "ASIAIOSFODNN7EXAMPLE"],
    "google-key": ["AIza" + "S" * 35],
    "jwt": ["eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N_XgL0n3I9PlFUP0THsR8U"],
    "private-key": [PEM, "-----BEGIN PRIVATE KEY-----\ncut off"],
}
IN_CONTEXT = [
    ("Authorization: Bearer {}", "abcdef.0123456789_-~+/==", "bearer"),
    ("authorization: basic {}", "dXNlcjpwYXNzd29yZA==", "basic"),
    ("postgres://user:{}@db.example/x", "hunter2!", "url-password"),
    ("https://:{}@host", "p", "url-password"),
]
HARMLESS = [
    "the risk-based task-force asks for sk-8 and a desk-top",
    "https://example.com/a@b?x=1:2",
    "see http://[::1]:8080/ and mailto:a@b.c",
    "a bearer of news; the bearer token is short",
    "eyJ is how they begin",
    "commit 3f786850e387550fdaaef9ab8d5b6a3c1e5f9f3a in ghost_",
    "-----BEGIN CERTIFICATE-----",
    "",
]


def made(**options: Any) -> Redactor:
    return Redactor(Redact(key=KEY, **options))


def turned(redactor: Redactor, scope: str, value: Any) -> Any:
    async def back() -> Any:
        return await redactor.live(scope, value)

    return anyio.run(back)


@pytest.mark.promise(300)
@pytest.mark.parametrize(("name", "secret"), [(name, each) for name, all_ in SECRETS.items() for each in all_])
def test_a_key_of_a_known_form_is_found_in_any_text_and_turned_back_for_its_run_only(name: str, secret: str) -> None:
    redactor = made()
    text = f"use {secret}"
    clean = redactor.text("7f3a", text)
    assert secret not in clean
    assert re.fullmatch(rf"use \[secret:{name}:[0-9a-f]{{16}}\]", clean)
    assert turned(redactor, "7f3a", clean) == (text, ())
    assert turned(redactor, "other", clean)[1] == (clean[4:],)
    in_json = json.dumps({"a": [text]})
    assert secret not in json.loads(redactor.json("7f3a", in_json))["a"][0]
    assert secret not in redactor.plain(text)


@pytest.mark.promise(300)
@pytest.mark.parametrize(("around", "secret", "name"), IN_CONTEXT)
def test_of_headers_and_addresses_only_the_secret_is_replaced(around: str, secret: str, name: str) -> None:
    redactor = made()
    clean = redactor.text("r", around.format(secret))
    before, after = around.split("{}")
    assert re.fullmatch(rf"{re.escape(before)}\[secret:{name}:[0-9a-f]{{16}}\]{re.escape(after)}", clean)
    assert redactor.text("r", clean) == clean


@pytest.mark.parametrize("text", HARMLESS)
def test_what_only_looks_a_little_like_one_stays(text: str) -> None:
    assert made().text("r", text) == text


any_secret = st.sampled_from([each for all_ in SECRETS.values() for each in all_])
texts = st.lists(st.one_of(st.text(max_size=20), any_secret, st.just(f"{MARK}x:0123456789abcdef]")), max_size=4).map(
    " ".join
)
values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False), texts),
    lambda below: st.one_of(st.lists(below, max_size=3), st.dictionaries(texts, below, max_size=3)),
    max_leaves=8,
)


@given(texts)
def test_redacting_twice_changes_nothing_more(text: str) -> None:
    redactor = made()
    once = redactor.text("r", text)
    assert redactor.text("r", once) == once


@pytest.mark.promise(300)
@given(values, st.booleans())
def test_json_stays_json_of_the_same_shape_without_any_secret(value: Any, escaped: bool) -> None:
    redactor = made()
    text = json.dumps(value, ensure_ascii=escaped)
    if escaped:
        text = re.sub(r'"(?:[^"\\]|\\.)*"', lambda said: said.group(0).replace("s", "\\u0073"), text)
    clean = redactor.json("r", text)
    back = json.loads(clean)
    assert type(back) is type(value)
    flat = json.dumps(back, ensure_ascii=False)
    for found in [each for all_ in SECRETS.values() for each in all_]:
        assert json.dumps(found)[1:-1] not in flat


@given(st.text())
def test_any_text_that_is_no_json_is_taken_too(text: str) -> None:
    redactor = made()
    redactor.json("r", text + "sk-proj-abcdefghij0123456789")
    redactor.plain(text)


@given(texts)
def test_what_was_taken_away_is_given_back_whole(text: str) -> None:
    assume(MARK not in text)
    redactor = made()
    assert turned(redactor, "r", redactor.text("r", text)) == (text, ())


class Login(Message[None]):
    user: str
    password: Secret
    others: tuple[Secret, ...] = ()


class Found(Struct):
    keys: dict[str, Secret]
    note: str = ""


@pytest.mark.promise(300)
def test_a_typed_secret_is_replaced_by_a_mark_with_the_name_of_its_field() -> None:
    redactor = made()
    login = Login("ana", Secret("hunter2"), (Secret("x"),))
    sealed = redactor.sealed("r", login)
    assert re.fullmatch(r"\[secret:password:[0-9a-f]{16}\]", sealed.password.secret)
    assert sealed.user == "ana"
    assert turned(redactor, "r", sealed) == (login, ())
    assert redactor.sealed("r", sealed) is sealed
    found = Found({"db": Secret("hunter2")})
    assert redactor.sealed("r", found).keys["db"].secret.startswith("[secret:db:")
    assert turned(redactor, "r", redactor.sealed("r", found)) == (found, ())


def test_a_secret_shows_its_value_in_no_text_of_its_own() -> None:
    assert "hunter2" not in f"{Secret('hunter2')} {Secret('hunter2')!r} {Login('a', Secret('hunter2'))!r}"


def test_a_known_secret_is_found_in_other_texts_unless_it_is_very_short() -> None:
    redactor = made()
    redactor.sealed("r", Login("ana", Secret('correct "horse"'), (Secret("no"),)))
    assert 'correct "horse"' not in redactor.text("r", 'refused: correct "horse", no more')
    assert "no more" in redactor.text("r", "no more")
    assert "horse" not in redactor.json("r", json.dumps(['a correct "horse" b']))
    assert redactor.text("other", 'correct "horse"') == 'correct "horse"'
    assert 'correct "horse"' not in redactor.plain('log: correct "horse"')


def test_equal_secrets_have_equal_marks_and_other_keys_give_other_marks() -> None:
    one, two = made(), Redactor(Redact(key=b"another key of 16"))
    assert one.mark("r", "x", "v") == one.mark("s", "x", "v") != two.mark("r", "x", "v")
    assert one.mark("r", "x", "v") != one.mark("r", "x", "w")


@pytest.mark.promise(301)
@pytest.mark.parametrize(("given", "fits"), [("hunter2", True), ("hunter3", False), (None, False)])
def test_a_value_from_outside_counts_only_if_it_has_the_digest(given: str | None, fits: bool) -> None:
    mark = made().mark("r", "password", "hunter2")
    asked: list[str] = []

    async def resolve(name: str, asked_for: str) -> str | None:
        asked.append(name)
        return given

    later = made(resolve=resolve)
    assert turned(later, "r", [mark]) == ((["hunter2"], ()) if fits else ([mark], (mark,)))
    assert asked == ["password"]


def test_what_is_forgotten_cannot_be_turned_back(monkeypatch: pytest.MonkeyPatch) -> None:
    redactor = made()
    mark = redactor.mark("r", "a", "x")
    kept = redactor.mark("s", "a", "x")
    redactor.forget("r")
    assert turned(redactor, "r", mark)[1] == (mark,)
    assert turned(redactor, "s", kept) == ("x", ())
    monkeypatch.setattr("understudy.actors.redaction.VAULT", 3)
    marks = [redactor.mark("t", "a", f"a value {number}") for number in range(5)]
    assert [not turned(redactor, "t", each)[1] for each in marks] == [False, False, True, True, True]
    assert redactor.text("t", "a value 0 and a value 4") == f"a value 0 and {marks[4]}"


@pytest.mark.parametrize(
    ("patterns", "said"),
    [
        ({"a b": "x"}, "pattern name 'a b'"),
        ({"a": "("}, "pattern 'a': "),
        ({"a": "x*"}, "matches the empty text"),
        ({"a": "(x)(y)"}, "more than one group"),
    ],
)
def test_a_pattern_that_makes_no_sense_is_refused_by_name(patterns: dict[str, str], said: str) -> None:
    with pytest.raises(SpecError, match=re.escape(said)):
        Redact(patterns)


def test_a_pattern_of_ones_own_is_found_and_does_not_spoil_marks() -> None:
    redactor = made(patterns={"hex": r"[0-9a-f]{16}", "card": r"card (\d{4})"})
    clean = redactor.text("r", "card 1234, sk-proj-abcdefghij0123456789, 0123456789abcdef")
    assert redactor.text("r", clean) == clean
    assert clean.count(MARK) == 3
    assert clean.startswith("card [secret:card:")
    with pytest.raises(SpecError, match="at least 16"):
        Redact(key=b"short")


def test_the_key_is_kept_beside_the_journal_and_readable_by_nobody_else(tmp_path: Any) -> None:
    journal = str(tmp_path / "desk.db")
    key = key_beside(journal)
    assert key_beside(journal) == key
    assert len(key) == 32
    assert (tmp_path / "desk.db-key").stat().st_mode & 0o777 == 0o600
    (tmp_path / "desk.db-key").write_bytes(b"")
    with pytest.raises(OSError, match="are no key"):
        key_beside(journal)
    assert msgspec.json.encode(Secret("x")) == b'{"secret":"x"}'
