"""Whatever a key, a value, a URL or an error says is shown as text: no script runs, nothing is loaded."""

from __future__ import annotations

from datetime import UTC, datetime

from playwright.async_api import expect

from agents.web.sample import MOST
from tests.browser.fake import answer, route, sample
from tests.browser.hostile import STRINGS
from tests.browser.stand import TOKEN


def fill(query):
    """Put every string into every place that somebody else writes."""
    now = datetime.now(UTC)
    query.answers = [
        answer(number, now, key=text, id=text[:128], url=f"http://a.example/{text}", host=text, source=text, cache=text,
               error={"type": text, "message": text, "retryable": True},
               result={"id": text, "document": {text: [text, {text: text}]}, "request": {"url": text}})
        for number, text in enumerate(STRINGS)
    ]  # fmt: skip
    for row, text in zip(query.hosts_told * 9, STRINGS, strict=False):
        row.update(host=text, last_error={"id": text, "outcome": text, "message": text, "at": text})
        row["workers"][0].update(breaker=text)
    for letter, text in zip(query.letters * 2, STRINGS, strict=False):
        letter.update(key=text, id=text, message=text, outcome=text, at=text, origin={"topic": text, "partition": text})
    query.routes_told = [route(text) for text in STRINGS]
    query.partial = {"partial": {"missing": [{"worker": text, "reason": text} for text in STRINGS]}}


async def test_hostile_strings_are_text_on_every_page(tab, stand):
    """Each page shows them as text, before and after a refresh, and loads nothing from anywhere else."""
    fill(stand.query)
    asked = []
    tab.page.on("request", lambda request: asked.append(request.url))
    for path in ("/", "/live", "/tables", "/tables/answers", "/tables/hosts", "/hosts", "/routes",
                 "/errors", "/workers", "/send"):  # fmt: skip
        await tab.go(path)
        await tab.assert_clean()
    for text in STRINGS:
        made = sample(text, 0, 0)
        made["read"] |= {"key": text, "value": text, "headers": {text: text}}
        for each in made["lookups"]:
            each.update({name: text for name in each if name != "questions"}, questions=[{text: text}])
        stand.query.sampled = made | {"outcome": text, "published": {"topic": text, "value": text}}
        stand.query.routes_told = [route("orders")]
        await tab.go("/routes/orders")
        await tab.assert_clean()
    await tab.go("/tables/answers")
    text = await tab.page.inner_text("main")
    assert [each for each in STRINGS[:10] if each not in text] == []
    assert await tab.page.locator("main :is(script, img, iframe, style, link, meta, base, object, embed)").count() == 0
    assert {url for url in asked if not url.startswith(stand.url)} == set()


async def test_hostile_keys_have_pages_of_their_own(tab, stand):
    """Each key's row has an address that leads to it, with the whole result as text and a copy that is the same."""
    fill(stand.query)
    stand.query.partial = {}
    await tab.go("/tables/answers?sort=offset")
    hrefs = [await link.get_attribute("href") for link in await tab.page.locator("#rows a.key").all()]
    assert len(hrefs) == len(STRINGS)
    for href in hrefs:
        response = await tab.page.goto(href)
        assert response.status == 200, href
        assert await tab.page.locator("main :is(script, img, iframe, style, link, meta, base)").count() == 0
        await tab.assert_clean()


async def test_hostile_strings_that_come_live_are_text(tab, stand):
    """What the tail and an answer to a request bring is text too."""
    await tab.go("/live")
    now = datetime.now(UTC)
    rows = [
        answer(number, now, key=text, outcome=text, cache=text, url=text, error={"type": text, "message": text})
        for number, text in enumerate(STRINGS)
    ]  # fmt: skip
    for start in range(0, len(rows), MOST):
        stand.tail.push(*rows[start : start + MOST])
    await expect(tab.page.locator("#tail tbody tr.arrived")).to_have_count(len(STRINGS))
    assert await tab.page.locator("#tail :is(script, img, iframe, style, link, meta, base)").count() == 0
    await tab.assert_clean()
    await tab.go("/send")
    stand.answers["requests"] = 200, {text: [text] for text in STRINGS}
    await tab.page.fill("input[name=url]", "http://a.example/")
    await tab.page.fill("input[name=token]", TOKEN)
    await tab.page.click("#send-button")
    await expect(tab.page.locator("#answer summary")).to_have_count(len(STRINGS) + 1)
    assert await tab.page.locator("#answer :is(script, img, iframe, style, link, meta, base)").count() == 0


async def test_hostile_addresses_are_text(tab, stand):
    """What an address says is shown as text, in searches, filters, sorts, cursors and names."""
    tab.expect("404")
    for text in STRINGS[:-2]:
        for path in ("/tables/answers", "/hosts", "/live", "/tables/" + "x"):
            response = await tab.context.request.get(
                path, params=dict.fromkeys(("prefix", "key", "host", "outcome"), text)
            )
            body = await response.text()
            assert response.status in (200, 400, 404)
            assert "<script>trap" not in body
            assert "<img src=x" not in body
