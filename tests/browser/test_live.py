"""What changes shows by itself, and what is not known, or no longer true, says so."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime

import pytest
from playwright.async_api import expect

from streams.web.problems import not_ready
from tests.browser.fake import answer
from tests.browser.stand import PATHS, Stand, Tab

WITHIN = 30_000
"""Milliseconds that a busy machine may take for what comes with the next tick; how long it takes is measured once."""
# Resolved as soon as the figure shows the text: a locator looks twice a second at most.
SEEN = """(text) => new Promise((seen) => {
  const figure = document.querySelector("[data-figure=throughput]");
  const look = () => figure.textContent.includes(text) && seen();
  new MutationObserver(look).observe(figure, {childList: true, characterData: true, subtree: true});
  look();
})"""


async def shows(tab, selector, text, timeout=WITHIN):
    """Wait until an element shows a text."""
    await expect(tab.page.locator(selector).first).to_contain_text(text, timeout=timeout)


async def test_figures_change_within_a_second(tab, stand):
    """A figure that changes is on the page with the next tick: within a second and a frame, at the median of five."""
    await tab.go("/")
    waited = []
    for number in range(1, 6):
        stand.query.throughput = 2_000.0 + number
        began = time.perf_counter()
        await tab.page.evaluate(SEEN, f"2,00{number}")
        waited.append(time.perf_counter() - began)
    print("shown after", *(f"{each:.2f} s" for each in waited))
    assert sorted(waited)[2] < 1.1


@pytest.mark.parametrize(
    ("name", "change", "text"),
    [
        ("partitions", lambda query: setattr(query, "lag", None), "unknown"),
        ("workers", lambda query: query.silent.update({"mill-b": 12.0}), "silent since 12 s"),
        ("hosts", lambda query: query.hosts_told[0]["workers"][0].update(breaker="half-open"), "half-open"),
        ("tables", lambda query: query.answers.pop(), "399"),
        ("table", lambda query: query.answers.append(answer(777, datetime.now(UTC))), "item-00777"),
        ("row", lambda query: query.answers[3].update(elapsed_ms=4321.0), "4.32 s"),
        ("errors", lambda query: query.letters[0].update(message="another reason"), "another reason"),
    ],
)
async def test_each_page_follows_what_changes(tab, stand, name, change, text):
    """A page that is open shows what has changed with the next tick, without being loaded again."""
    await tab.go(PATHS[name])
    await tab.page.evaluate("window.sameDocument = true")
    change(stand.query)
    await shows(tab, "main", text)
    assert await tab.page.evaluate("window.sameDocument") is True


async def test_what_is_not_known_is_unknown_and_never_zero(tab, stand):
    """A lag that nobody knows is told as unknown, on the page as it comes and in what follows."""
    stand.query.lag = None
    await tab.go("/")
    assert await tab.texts("[data-figure=lag]") == ["unknown"]
    stand.query.lag = 7
    await shows(tab, "[data-figure=lag]", "7")
    stand.query.lag = None
    await shows(tab, "[data-figure=lag]", "unknown")
    for path, column in (("/partitions", "Lag"), ("/workers", "Lag")):
        await tab.go(path)
        heads = await tab.texts("thead th")
        cells = await tab.texts(f"tbody td:nth-child({heads.index(column) + 1})")
        assert set(cells) == {"unknown"}


async def test_a_silent_worker_is_named_with_since_when(tab, stand):
    """A worker that falls silent is named on the overview, with for how long, and gone when it answers again."""
    await tab.go("/")
    stand.query.silent = {"mill-b": 12.0}
    await shows(tab, "[data-live=notices]", "No answer from worker mill-b since 12 s")
    await shows(tab, "[data-live=workers]", "1 of 2 answering")
    stand.query.silent = {}
    await expect(tab.page.locator("[data-live=notices]")).not_to_contain_text("No answer", timeout=WITHIN)


async def test_a_worker_whose_tables_recover_is_named(tab, stand):
    """A worker that still reads its tables is named, with how much is left, on the overview and among the workers."""
    stand.query.recovering = {"mill-b": 12_345}
    await tab.go("/")
    said = "Tables are recovering on worker mill-b: 12,345 rows to read"
    assert said in await tab.page.inner_text("[data-live=notices]")
    await tab.go("/workers")
    assert said in await tab.page.inner_text("main")
    stand.query.recovering = {}
    await expect(tab.page.locator("main")).not_to_contain_text("recovering", timeout=WITHIN)


async def test_rows_that_cannot_be_read_are_shown_as_that(tab, stand):
    """A row that somebody else wrote into a table, which nobody can read, spoils no page."""
    unreadable = {"unreadable": True, "partition": 0, "key": "whose"}
    stand.query.answers[3:] = [dict(unreadable)]
    stand.query.hosts_told.append(dict(unreadable))
    for path in ("/live", "/tables/answers?sort=partition", "/tables/hosts", "/hosts", "/tables/answers/whose"):
        response = await tab.go(path)
        assert response.status == 200, path
        assert "whose" in await tab.page.inner_text("main"), path


async def test_partial_answers_say_what_is_missing(tab, stand):
    """When a worker's rows are missing the page names it and the reason."""
    stand.query.partial = {"partial": {"missing": [{"worker": "mill-b", "reason": "no answer within 3 s"}]}}
    await tab.go("/tables/answers")
    [notice] = await tab.texts(".notice")
    assert notice == "Some data is missing. No answer from worker mill-b: no answer within 3 s."


async def test_recovering_tables_say_so_and_come_by_themselves(tab, stand):
    """Until the tables have recovered the page says that it is not ready; then it shows them without being asked."""
    stand.query.problem = not_ready("the tables are recovering")
    tab.expect("503")
    response = await tab.go("/tables/answers")
    assert response.status == 503
    assert "the tables are recovering" in await tab.page.inner_text("main")
    stand.query.problem = None
    await shows(tab, "main", "item-00000", timeout=5_000)


async def test_a_page_keeps_what_it_shows_while_the_tables_are_gone(tab, stand):
    """A page whose tables go away keeps its rows, says as of when they are and why, and goes on when they are back."""
    await tab.go("/tables/answers")
    tab.expect("503")
    stand.query.problem = not_ready("the tables are recovering")
    await shows(tab, "#stale", "the tables are recovering")
    assert "item-00000" in await tab.page.inner_text("main")
    stand.query.problem = None
    await tab.page.wait_for_selector("#stale", state="detached")


async def test_a_lost_connection_says_so_and_since_when_and_comes_back(browser):
    """When the worker goes, the page says that the connection is lost and since when; when it is back, it is live."""
    async with Stand() as stand:
        port = stand.port
        async with Tab(browser, stand.url) as tab:
            tab.expect("net::ERR")
            await tab.go("/")
            await stand.__aexit__()
            await shows(tab, "#connection-text", "Connection lost at ", timeout=8_000)
            assert await tab.page.get_attribute("#connection", "class") == "connection lost"
            lost = await tab.page.inner_text("#connection-text")
            again = Stand()
            again.port = port
            async with again:
                await expect(tab.page.locator("#connection-text")).to_have_text("Live", timeout=8_000)
        assert lost.endswith(" UTC, trying again")


async def test_a_lost_connection_widens_no_page_of_a_phone(browser):
    """On a screen of 390 pixels the longest notice of the connection wraps."""
    async with Stand() as stand, Tab(browser, stand.url, viewport={"width": 390, "height": 844}) as tab:
        tab.expect("net::ERR")
        await tab.go("/")
        await stand.__aexit__()
        await shows(tab, "#connection-text", "Connection lost at ", timeout=8_000)
        assert await tab.page.evaluate("document.documentElement.scrollWidth") == 390


async def test_the_tail_shows_answers_as_they_come_and_pauses(tab, stand):
    """Answers come to the top within a second; paused, they pass by and are counted; what was left out is told."""
    await tab.go("/live")
    stand.tail.push(answer(9_001, datetime.now(UTC)), answer(9_002, datetime.now(UTC)))
    await shows(tab, "#tail tbody tr", "item-09002")
    stand.tail.push(answer(9_003, datetime.now(UTC)), dropped=1_234)
    await shows(tab, "#tail-state", "3 answers since this page was opened, 1,234 more came too fast to be shown")
    await tab.page.click("#pause")
    stand.tail.push(answer(9_004, datetime.now(UTC)))
    await shows(tab, "#tail-state", "1 passed while paused")
    assert "item-09004" not in await tab.page.inner_text("#tail")
    await shows(tab, "#connection-text", "Paused")
    await tab.page.keyboard.press("p")
    stand.tail.push(answer(9_005, datetime.now(UTC)))
    await shows(tab, "#tail tbody tr", "item-09005")
    assert await tab.page.locator("#tail tbody tr").count() <= 200


async def test_the_tail_is_filtered_by_outcome_key_and_host(tab, stand):
    """Only what the filters let through is shown, and the address keeps them."""
    now = datetime.now(UTC)
    await tab.go("/live")
    await tab.page.select_option("select[name=outcome]", "timeout")
    await tab.page.fill("input[name=key]", "item-09")
    # The stream with all three filters: what passes before it is open is not shown.
    async with tab.page.expect_response(lambda each: "/events?" in each.url and "host=ledger" in each.url):
        await tab.page.fill("input[name=host]", "ledger")
    await tab.page.wait_for_url("**/live?key=item-09&outcome=timeout&host=ledger")
    await shows(tab, "#tail-state", "0 answers")
    ledger = {"host": "ledger.example.com:8443", "outcome": "timeout"}
    stand.tail.push(
        answer(8_000, now, **ledger), answer(9_001, now, **ledger | {"host": "api.example.com:443"}),
        answer(9_002, now, **ledger | {"outcome": "ok"}), answer(9_003, now, **ledger),
    )  # fmt: skip
    await shows(tab, "#tail tbody tr", "item-09003")
    assert await tab.texts("#tail tbody a.key") == ["item-09003"]


_SEE = """state => {
  Object.defineProperty(document, "visibilityState", { value: state, configurable: true });
  document.dispatchEvent(new Event("visibilitychange"));
}"""


async def test_a_hidden_page_gives_its_connection_back(tab, stand):
    """Six of them would keep a browser from any other page of the host over HTTP/1.1; seen again, it goes on."""
    await tab.page.clock.install()
    await tab.go("/live")
    async with tab.page.expect_event("requestfailed", lambda each: "/events" in each.url):
        await tab.page.evaluate(_SEE, "hidden")
        await tab.page.clock.run_for(11_000)
    async with tab.page.expect_request(lambda each: "/events" in each.url):
        await tab.page.evaluate(_SEE, "visible")
    await shows(tab, "#connection-text", "Live")
    stand.tail.push(answer(9_006, datetime.now(UTC)))
    await shows(tab, "#tail tbody tr", "item-09006")


async def test_a_page_of_somebody_else_s_is_not_taken_for_a_fresh_one(tab, stand):
    """A proxy's error, or one of too many requests: what is shown is as old as it says, and stays."""
    await tab.go("/workers")
    tab.expect("429")
    await tab.page.route("**/workers", lambda route: route.fulfill(status=429, body="<h1>Too Many Requests</h1>"))
    await shows(tab, "#stale", "the server answered 429")
    assert await tab.page.locator("table.data").count() == 1
    await tab.page.unroute("**/workers")
    await expect(tab.page.locator("#stale")).to_have_count(0)


async def test_a_stream_of_events_is_as_the_standard_says(tab, stand):
    """An unknown Last-Event-ID does no harm; `overview` comes at once with all its minutes, then with the last ones."""
    import aiohttp

    async with aiohttp.ClientSession() as session, session.get(
        stand.url + "/events", headers={"Last-Event-ID": "\x7fnonsense"[1:] + "9" * 500}
    ) as response:  # fmt: skip
        assert response.content_type == "text/event-stream"
        assert response.headers["X-Accel-Buffering"] == "no"
        events = []
        async for line in response.content:
            if line.startswith(b"data: "):
                events.append(json.loads(line[6:]))
            if len(events) == 2:
                break
    assert [len(event["minutes"]) for event in events] == [60, 2]
