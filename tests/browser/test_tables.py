"""Searching, sorting, paging and reading rows, by mouse, by keyboard and by address."""

from __future__ import annotations

import base64
from datetime import UTC, datetime

from playwright.async_api import expect

from tests.browser.fake import answer
from tests.browser.stand import Tab

ROWS = "#rows tbody tr"


def keys(tab):
    """Return the keys of the rows that are shown."""
    return tab.page.locator("#rows tbody a.key")


async def test_search_as_you_type_finds_rows_and_keeps_the_address(tab):
    """Each key narrows the rows without loading the page; the address says what was searched, and opens it again."""
    await tab.go("/tables/answers")
    await tab.page.evaluate("window.sameDocument = true")
    await tab.page.locator("[data-search]").press_sequentially("item-0012")
    await expect(keys(tab)).to_have_count(10)
    await expect(tab.page.locator(".sum")).to_have_text("10 rows found")
    assert await tab.page.evaluate("window.sameDocument") is True
    assert "prefix=item-0012" in tab.page.url
    await tab.page.reload()
    await expect(keys(tab)).to_have_count(10)
    await tab.page.fill("[data-search]", "nothing like it")
    await expect(tab.page.locator("#rows tbody")).to_contain_text("Nothing found")


async def test_filters_narrow_by_outcome_and_host(tab, stand):
    """An outcome and a host can be asked for together."""
    one = next(row for row in stand.query.answers if row["outcome"] == "timeout")
    await tab.go("/tables/answers")
    await tab.page.select_option("select[name=outcome]", "timeout")
    await tab.page.fill("input[name=host]", one["host"])
    await expect(tab.page.locator(".sum")).to_contain_text("found")
    await expect(tab.page.locator(f"{ROWS} td.code").first).to_have_text(one["host"])
    assert set(await tab.texts(f"{ROWS} td.verdict")) == {"timeout"}
    assert set(await tab.texts(f"{ROWS} td.code")) == {one["host"]}


async def test_columns_sort_both_ways_and_say_so(tab):
    """A column's title orders by it, again the other way round, and a screen reader is told which."""
    await tab.go("/tables/answers")
    for order, first in (("ascending", "item-00000"), ("descending", "item-00399")):
        await tab.page.get_by_role("link", name="Key", exact=True).click()
        await expect(keys(tab).first).to_have_text(first)
        assert await tab.page.get_attribute("th.key", "aria-sort") == order
        assert await tab.page.get_attribute("th.verdict", "aria-sort") == "none"


async def test_paging_goes_through_every_row_once(browser, stand):
    """Page by page every row is met once, with or without JavaScript, and the first page can be gone back to."""
    for script in (True, False):
        async with Tab(browser, stand.url, java_script_enabled=script) as tab:
            await tab.go("/tables/answers?sort=key")
            met = await tab.texts("#rows tbody a.key")
            while await tab.page.locator("a[rel=next]").count():
                async with tab.page.expect_navigation():
                    await tab.page.click("a[rel=next]")
                met += await tab.texts("#rows tbody a.key")
            assert met == sorted(row["key"] for row in stand.query.answers)
            async with tab.page.expect_navigation():
                await tab.page.get_by_role("link", name="First page").click()
            assert (await tab.texts("#rows tbody a.key"))[0] == "item-00000"


async def test_search_and_sort_work_without_javascript(browser, stand):
    """The form is a plain one: Enter searches, and keeps the order."""
    async with Tab(browser, stand.url, java_script_enabled=False) as tab:
        await tab.go("/tables/answers?sort=key")
        await tab.page.fill("[data-search]", "item-0012")
        await tab.page.press("[data-search]", "Enter")
        await expect(keys(tab)).to_have_count(10)
        assert "sort=key" in tab.page.url


async def test_a_row_has_an_address_and_its_json_opens_and_is_copied(browser, stand):
    """A row's page shows the result as a tree that opens and closes, and copies it and its own address."""
    async with Tab(browser, stand.url, permissions=["clipboard-read", "clipboard-write"]) as tab:
        await tab.go("/tables/answers")
        await tab.page.get_by_role("link", name="item-00003").click()
        assert tab.page.url.endswith("/tables/answers/item-00003")
        inner = tab.page.locator(".tree summary", has_text='"price"')
        amount = tab.page.locator(".tree li", has_text='"amount": "12.40"').last
        await expect(amount).to_be_visible()
        await inner.click()
        await expect(amount).to_be_hidden()
        await expect(tab.page.locator("#connection-text")).to_have_text("Live")
        await tab.page.wait_for_timeout(1_200)  # a refresh has come by
        await expect(amount).to_be_hidden()
        await tab.page.get_by_role("button", name="Copy", exact=True).click()
        copied = await tab.page.evaluate("navigator.clipboard.readText()")
        assert '"n": 112272535095293' in copied
        await tab.page.get_by_role("button", name="Copy link").click()
        assert await tab.page.evaluate("navigator.clipboard.readText()") == tab.page.url


async def test_keys_of_every_kind_have_an_address(tab, stand):
    """A key that is no text, empty, with slashes or dots, or none at all is linked from its table and found."""
    odd = {"bytes": b"\xff\x00\xfe", "empty": b"", "dot": b".", "dots": b"..", "slash": b"a/../b?c#d%2F", "blank": b" "}
    stand.query.answers = []
    for number, (name, key) in enumerate(odd.items()):
        row = answer(number, datetime.now(UTC), id=f"id-{name}", url=f"http://a.example/{name}")
        try:
            row["key"] = key.decode()
        except UnicodeDecodeError:
            del row["key"]
            row["key_base64"] = base64.b64encode(key).decode()
        stand.query.answers.append(row)
    await tab.go("/tables/answers")
    for href in [await link.get_attribute("href") for link in await keys(tab).all()]:
        response = await tab.go(href)
        assert response.status == 200, href
    found = set()
    await tab.go("/tables/answers")
    for index in range(len(odd)):
        await keys(tab).nth(index).click()
        [url] = await tab.texts(".facts div:has(dt:text-is('id')) dd")
        found.add(url)
        await tab.page.go_back()
    assert found == {f"id-{name}" for name in odd}


async def test_a_row_that_is_not_there_is_not_found(tab):
    """An address of no row says so, with 404; of no table too."""
    tab.expect("404")
    for path, said in (("/tables/answers/nope", "no row of answers has this key"), ("/tables/nope", "no table")):
        response = await tab.page.goto(path)
        assert response.status == 404
        assert said in await tab.page.inner_text("main")


async def test_keys_go_through_the_page(tab):
    """`/` searches, Escape leaves, `j` and `k` step, Enter opens, `g` goes, `?` helps; all can be turned off."""
    await tab.go("/tables/answers?sort=key")
    press = tab.page.keyboard.press
    await press("/")
    assert await tab.page.evaluate("document.activeElement.name") == "prefix"
    await press("j")  # typed, not gone
    await expect(tab.page.locator("[data-search]")).to_have_value("j")
    await tab.page.fill("[data-search]", "")
    await expect(keys(tab)).to_have_count(50)
    await press("Escape")
    for key, text in (("j", "item-00000"), ("j", "item-00001"), ("j", "item-00002"), ("k", "item-00001")):
        await press(key)
        assert await tab.page.evaluate("document.activeElement.textContent") == text
    await press("?")
    assert await tab.page.locator("#help").is_visible()
    await press("Escape")
    assert await tab.page.locator("#help").is_hidden()
    await tab.page.locator("a.key", has_text="item-00001").focus()
    await press("Enter")
    await tab.page.wait_for_url("**/tables/answers/item-00001")
    await press("g")
    await press("h")
    await tab.page.wait_for_url("**/hosts")
    await tab.page.click("#help-button")
    await tab.page.uncheck("#keys-on")
    await press("Escape")
    await press("?")
    assert await tab.page.locator("#help").is_hidden()


async def test_focus_stays_where_it_is_while_rows_change(tab, stand):
    """What has the focus keeps it when a refresh takes over other rows, and it can be seen."""
    await tab.go("/tables/answers?sort=key")
    await tab.page.locator("a.key", has_text="item-00001").focus()
    stand.query.answers.append(answer(0, datetime.now(UTC), key="item-00000a"))
    await expect(keys(tab).nth(1)).to_have_text("item-00000a")
    assert await tab.page.evaluate("document.activeElement.textContent") == "item-00001"
    await tab.page.keyboard.press("j")
    style = "getComputedStyle(document.activeElement).outlineStyle"
    assert await tab.page.evaluate(style) == "solid"
    await tab.page.keyboard.press("Tab")
    assert await tab.page.evaluate(style) == "solid"
    await tab.page.evaluate("document.activeElement.blur()")
    await tab.page.goto("/")
    await tab.page.keyboard.press("Tab")
    assert await tab.page.evaluate("document.activeElement.textContent") == "Skip to content"
    await tab.page.keyboard.press("Enter")
    assert await tab.page.evaluate("document.activeElement.id") == "main"
