"""The tool that reads back what was left out of the context window; an agent has it from the first spill on."""

from __future__ import annotations

from typing import Final

from understudy.actors.agents.tools import Call, tool

PIECE: Final = 2_000
"""Characters that one call gives back at the most."""


@tool(effect="read", timeout=10)
async def read_spilled(call: Call, id: str, offset: int = 0) -> dict[str, object]:
    """Read a tool's result that was shortened, 2,000 characters from `offset` on; `id` is named where it was cut."""
    text = await call.spilled(id)
    if not 0 <= offset < max(1, len(text)):
        raise ValueError(f"offset {offset}: the result has {len(text)} characters")
    piece = text[offset : offset + PIECE]
    return {"text": piece, "offset": offset, "left": len(text) - offset - len(piece)}
