"""The conformance suite of links, run by the kinds that we ship."""

import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import anyio
import certificates
import pytest
from wires import HubWires, tcp, tls, unix

from understudy.transports.testing.link_kit import Wires
from understudy.transports.testing.link_suite import CHECKS


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """A short path: that of a Unix socket has 107 bytes."""
    made = Path(tempfile.mkdtemp(prefix="us"))
    yield made
    shutil.rmtree(made)


@pytest.fixture(scope="module")
def files(folder: Path) -> certificates.Files:
    return certificates.made(folder, "node")


Make = Callable[[Path, certificates.Files], Wires]
KINDS: dict[str, Make] = {
    "hub": lambda folder, files: HubWires(),
    "tcp": lambda folder, files: tcp(),
    "unix": lambda folder, files: unix(folder),
    "tls": lambda folder, files: tls(files.cert, files.key, files.ca),
}


@pytest.mark.promise(340)
@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("kind", KINDS)
def test_our_links_conform(kind: str, check: str, folder: Path, files: certificates.Files) -> None:
    anyio.run(CHECKS[check], KINDS[kind](folder, files))
