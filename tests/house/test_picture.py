"""The picture of the README is drawn from a run that happens, and the committed one tells the same story."""

import re
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

from unhurried import complaints

ROOT = Path(__file__).resolve().parents[2]
SVG = "{http://www.w3.org/2000/svg}"


def words(file: Path) -> list[str]:
    """Every text of a picture in order, the scale of its axis left out."""
    root = ElementTree.parse(file).getroot()
    assert root.tag == f"{SVG}svg"
    texts = [text.text or "" for text in root.iter(f"{SVG}text")]
    return [text for text in texts if not re.fullmatch(r"\d\.\d s", text)]


def test_a_new_drawing_tells_the_story_of_the_committed_one(tmp_path: Path) -> None:
    drawn = tmp_path / "run.svg"
    command = [sys.executable, "-W", "error", str(ROOT / "docs" / "picture.py"), str(drawn)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert (done.returncode, complaints(done.stderr)) == (0, "")
    story = words(drawn)
    assert 'order("1042 ") failed the same way 3 times → nudge' in story
    assert "the same again after the nudge → restart" in story
    assert "back-off 0.35 s" in story
    assert "restart: attempt 2, temperature 0.7" in story
    assert "complete" in story
    assert words(ROOT / "docs" / "supervised-run.svg") == story


def test_the_picture_is_readable_on_light_and_dark_and_asks_nothing_of_the_network() -> None:
    text = (ROOT / "docs" / "supervised-run.svg").read_text(encoding="utf-8")
    assert "prefers-color-scheme: dark" in text
    assert re.findall(r"(?:href|src|url)\s*[=(]\s*[\"']?https?:", text) == []
