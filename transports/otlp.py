"""OTLP over HTTP: one request with a body that is made already. Blocking: it is called in a listener's own thread."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

ANSWER_LIMIT: Final = 64 * 1024


def post(url: str, body: bytes, headers: Mapping[str, str], timeout: float) -> None:
    """Send one batch of spans as JSON. Raises `OSError` for whatever goes wrong, a status above 299 included."""
    import urllib.request

    if not url.startswith(("http://", "https://")):
        raise OSError(f"not an http address: {url[:200]!r}")
    sent = {"Content-Type": "application/json", **headers}
    request = urllib.request.Request(url, data=body, headers=sent, method="POST")  # noqa: S310  # checked above
    with urllib.request.urlopen(request, timeout=timeout) as response:  # noqa: S310
        response.read(ANSWER_LIMIT)
