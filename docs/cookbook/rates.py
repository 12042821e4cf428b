"""A source that is a function: exchange rates, from a library instead of a URL."""

from __future__ import annotations

import asyncio

from millrace import Invalid, RetryLater, UpstreamStatus

RATES = {"EUR": "1", "USD": "1.16"}
OPEN = True


async def rate(currency: str) -> dict[str, str]:
    """Return what a euro costs; whatever it awaits, the request's deadline cancels it."""
    if len(currency) != 3:
        msg = f"{currency!r} is not a currency: use its three letters"
        raise Invalid(msg)
    await asyncio.sleep(0)  # in place of a library's call
    if not OPEN:
        raise RetryLater(30, "the market is closed")
    if currency not in RATES:
        raise UpstreamStatus(404)
    return {"currency": currency, "rate": RATES[currency]}
