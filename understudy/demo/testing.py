"""Temporary environments for tests: folders with metadata made by hand, as an installer would leave them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

SOUND = ("License-Expression: MIT",)
"""The headers, beside name and version, of a distribution without findings."""


class Site:
    """A folder like site-packages, made if need be, to plant distributions in. `path` is what to audit."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.path = [str(root)]
        root.mkdir(parents=True, exist_ok=True)

    def plant(
        self,
        name: str,
        version: str = "1.0",
        *,
        headers: tuple[str, ...] = SOUND,
        files: Mapping[str, str] | None = None,
        requested: bool = True,
        folder: str | None = None,
    ) -> Path:
        """A distribution of one module, without findings; gives its metadata folder.

        `headers` follow name and version in METADATA, `files` (path below the site: text) replace the module,
        `requested=False` leaves the `REQUESTED` marker out, and `folder` names the metadata folder otherwise.
        """
        module = name.replace("-", "_").lower()
        info = folder or f"{name.replace('-', '_')}-{version}.dist-info"
        lines = ["Metadata-Version: 2.4", f"Name: {name}", f"Version: {version}", *headers, "", f"About {name}.", ""]
        contents = {f"{module}.py": "x = 1\n"} if files is None else dict(files)
        contents |= {f"{info}/METADATA": "\n".join(lines), f"{info}/INSTALLER": "by-hand\n"}
        if requested:
            contents[f"{info}/REQUESTED"] = ""
        for file, text in contents.items():
            self.write(file, text)
        rows = [f"{file},,{len(text.encode())}" for file, text in contents.items()]
        compiled = f"__pycache__/{module}.cpython-311.pyc,,"  # listed by pip, and never on disk here
        self.write(f"{info}/RECORD", "\n".join([*rows, compiled, f"{info}/RECORD,,", ""]))
        return self.root / info

    def write(self, file: str, text: str | bytes) -> Path:
        """One file, with the folders above it; gives its path."""
        place = self.root / file
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(text.encode() if isinstance(text, str) else text)
        return place
