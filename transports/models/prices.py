"""List prices of models, and how many tokens they take, as data.

OpenAI's list prices as known between August 2025 and March 2026: standard tier, uncached input. Prices change and
discounts differ: pass `price=` to the model when an amount of money matters to you. A model that is not listed has no
price, and a budget in money then refuses to start.
"""

from __future__ import annotations

import re

from understudy.actors.agents.models import Price

PRICES: dict[str, Price] = {
    "gpt-4.1": Price(2_000_000, 8_000_000),
    "gpt-4.1-mini": Price(400_000, 1_600_000),
    "gpt-4.1-nano": Price(100_000, 400_000),
    "gpt-4o": Price(2_500_000, 10_000_000),
    "gpt-4o-mini": Price(150_000, 600_000),
    "gpt-5": Price(1_250_000, 10_000_000),
    "gpt-5-mini": Price(250_000, 2_000_000),
    "gpt-5-nano": Price(50_000, 400_000),
    "o3": Price(2_000_000, 8_000_000),
    "o4-mini": Price(1_100_000, 4_400_000),
}
"""Micro-dollars per million input and output tokens, by the provider's name of the model."""

CONTEXTS: dict[str, int] = {
    "gpt-4.1": 1_047_576,
    "gpt-4.1-mini": 1_047_576,
    "gpt-4.1-nano": 1_047_576,
    "gpt-4o": 128_000,
    "gpt-4o-mini": 128_000,
    "gpt-5": 400_000,
    "gpt-5-mini": 400_000,
    "gpt-5-nano": 400_000,
    "o3": 200_000,
    "o4-mini": 200_000,
}
"""Tokens that a model takes, input and answer together, from the same provider's pages and of the same time."""

_DATED = re.compile(r"-\d{4}-\d{2}-\d{2}\Z")


def price_of(model: str) -> Price | None:
    """The price of a model or of a dated snapshot of it (`gpt-5-mini-2025-08-07`); None when unknown."""
    return PRICES.get(model) or PRICES.get(_DATED.sub("", model))


def context_of(model: str) -> int | None:
    """The tokens that a model or a dated snapshot of it takes; None when unknown."""
    return CONTEXTS.get(model) or CONTEXTS.get(_DATED.sub("", model))
