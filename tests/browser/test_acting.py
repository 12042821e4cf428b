"""What changes something: sending a request and putting dead letters back, with the token and only with it."""

from __future__ import annotations

from playwright.async_api import expect

from tests.browser.stand import TOKEN, Tab

ANSWER = {"id": "made", "outcome": "ok", "status": 200, "document": {"n": 7, "html": "<img src=x onerror=trap()>"},
          "elapsed_ms": 3.1}  # fmt: skip


async def test_a_request_is_sent_and_its_answer_shown(tab, stand):
    """The form's fields become the request's members, the token goes in the header alone, the answer is text."""
    stand.answers["requests"] = 200, ANSWER
    await tab.go("/send")
    await tab.page.fill("input[name=url]", "https://api.example.com/v1/items/7")
    await tab.page.select_option("select[name=schema]", "text")
    await tab.page.fill("input[name=key]", "a key/1")
    await tab.page.click("summary:has-text('More')")
    await tab.page.fill("textarea[name=checks]", '["is_prime"]')
    await tab.page.fill("input[name=max_age]", "0")
    await tab.page.fill("input[name=token]", TOKEN)
    await tab.page.click("#send-button")
    await expect(tab.page.locator("#send-state")).to_contain_text("ok")
    await expect(tab.page.locator("#answer")).to_contain_text('"html": "<img src=x onerror=trap()>"')
    [(path, headers, body)] = stand.posted
    assert path == "/api/requests?wait=10&key=a+key%2F1"
    assert headers["X-Millrace-Token"] == TOKEN
    assert "Authorization" not in headers
    url = "https://api.example.com/v1/items/7"
    assert body == {"url": url, "schema": "text", "checks": ["is_prime"], "max_age": 0}
    assert "Cookie" not in headers
    assert TOKEN not in path
    assert await tab.context.cookies() == []
    kept = await tab.page.evaluate("[JSON.stringify(localStorage), JSON.stringify(sessionStorage)]")
    assert [TOKEN in each for each in kept] == [False, True]
    await tab.page.reload()
    await expect(tab.page.locator("input[name=token]")).to_have_value(TOKEN)


async def test_a_source_is_asked_with_its_parameters(tab, stand):
    """Choosing a source takes parameters in the place of a URL."""
    stand.answers["requests"] = 200, ANSWER
    await tab.go("/send")
    await tab.page.select_option("select[name=source]", "quotes")
    assert await tab.page.locator("input[name=url]").is_hidden()
    await tab.page.fill("textarea[name=params]", '{"symbol": "ACME"}')
    await tab.page.fill("input[name=token]", TOKEN)
    await tab.page.click("#send-button")
    await expect(tab.page.locator("#send-state")).to_contain_text("ok")
    assert [body for _, _, body in stand.posted] == [{"source": "quotes", "params": {"symbol": "ACME"}}]


async def test_numbers_are_sent_and_shown_with_their_digits(tab, stand):
    """JavaScript's doubles change neither what is sent nor what came back, nor what is copied."""
    document = '{"id":9007199254740993,"price":10.10}'
    stand.answers["requests"] = 200, f'{{"id":"made","outcome":"ok","document":{document}}}'
    await tab.go("/send")
    await tab.page.fill("input[name=url]", "https://api.example.com/")
    await tab.page.click("summary:has-text('More')")
    await tab.page.fill("textarea[name=body]", '{"id": 9007199254740993, "price": 10.10}')
    await tab.page.fill("input[name=token]", TOKEN)
    await tab.page.click("#send-button")
    await expect(tab.page.locator("#answer")).to_contain_text("9007199254740993")
    await expect(tab.page.locator("#answer")).to_contain_text("10.10")
    assert [f'"body":{document}' in text for text in stand.written] == [True]
    assert '"price": 10.10' in await tab.page.locator("#answer").get_attribute("data-json")


async def test_what_is_wrong_with_a_request_is_told(tab, stand):
    """A field that is no JSON, a refused token, a refused request and no answer yet are each told in words."""
    await tab.go("/send")
    tab.expect("the server responded with a status of")
    state = tab.page.locator("#send-state")
    await tab.page.fill("input[name=url]", "https://api.example.com/")
    await tab.page.click("summary:has-text('More')")
    await tab.page.fill("textarea[name=checks]", "[")
    await tab.page.click("#send-button")
    await expect(state).to_contain_text("checks is not JSON")
    await tab.page.fill("textarea[name=checks]", "")
    await tab.page.fill("input[name=token]", "wrong")
    await tab.page.click("#send-button")
    await expect(state).to_have_text("Not sent (401): the token is missing or wrong")
    assert stand.posted == []
    await tab.page.fill("input[name=token]", TOKEN)
    errors = [{"field": "url", "message": "not http or https"}]
    stand.answers["requests"] = 422, {"detail": "no request", "errors": errors}
    await tab.page.click("#send-button")
    await expect(state).to_have_text("Not sent (422): no request; url: not http or https")
    stand.answers["requests"] = 202, {"id": "made-1"}
    await tab.page.click("#send-button")
    await expect(state).to_contain_text("Accepted as made-1; no result within 10 s")


async def test_chosen_letters_are_put_back(tab, stand):
    """Letters are chosen by key or mouse and put back with the token; those put back or flawed cannot be chosen."""
    stand.answers["redrive"] = 200, {"redriven": 1, "letters": [
        {"partition": 0, "offset": 400, "redriven": True},
        {"partition": 1, "offset": 399, "redriven": False, "reason": "it was put back already"},
    ], "missing": []}  # fmt: skip
    await tab.go("/errors")
    boxes = tab.page.locator("#letters input[name=letter]")
    await expect(boxes).to_have_count(21)
    button = tab.page.locator("#redrive-button")
    assert await button.is_disabled()
    await tab.page.keyboard.press("j")
    await tab.page.keyboard.press("Space")
    await boxes.nth(1).check()
    await expect(button).to_have_text("Put 2 back on requests")
    await tab.page.fill("input[name=token]", TOKEN)
    await button.click()
    await expect(tab.page.locator("#redrive-state")).to_have_text("Put back: 1 of 2; it was put back already")
    [(path, headers, body)] = stand.posted
    assert (path, headers["X-Millrace-Token"]) == ("/api/redrive", TOKEN)
    assert body == {"letters": [{"partition": 0, "offset": 400}, {"partition": 1, "offset": 399}]}
    await tab.page.check("#all")
    await expect(button).to_have_text("Put 21 back on requests")


async def test_a_letter_is_shown_with_its_last_result(tab, stand):
    """With its place and its time, all digits of its numbers, and as text; or with the reason why there is none."""
    whole = {"partition": 0, "offset": 400, "outcome": "timeout", "attempts": 1, "value": None, "headers": []}
    last = {
        "partition": 2,
        "offset": 71,
        "at": "2026-11-22T14:00:00.000Z",
        "latest": True,
        "value": '{"id": "r1", "outcome": "ok", "document": {"n": 1.10, "t": "<img src=x onerror=trap(1)>"}}',
    }
    shown = tab.page.locator("#letter-body")

    async def show(**more):
        stand.answers["letter"] = 200, {**whole, **more}
        await tab.page.locator("[data-letter]").first.click()
        await expect(shown).to_contain_text("Deliveries")

    await tab.go("/errors")
    await tab.page.fill("input[name=token]", TOKEN)
    await show(last_result=last)
    for text in ("Last result: partition 2, offset 71, 2026-11-22T14:00:00.000Z", '"n": 1.10', "<img src=x"):
        await expect(shown).to_contain_text(text)
    assert await tab.violations() == []
    await tab.page.locator("#letter button").click()
    await show(last_result={**last, "latest": False})
    await expect(shown).to_contain_text("Result published with this letter: partition 2")
    await tab.page.locator("#letter button").click()
    await show(no_result="Kafka has deleted what was before")
    await expect(shown).to_contain_text("Not there: Kafka has deleted what was before")


async def test_a_letter_is_shown_whole(tab, stand):
    """With the token, as text: what its sender wrote runs nowhere. A refusal says why."""
    stand.answers["letter"] = 200, {
        "partition": 0, "offset": 400, "outcome": "timeout", "message": "no <b>answer</b>", "attempts": 3, "key": "k",
        "origin": {"topic": "requests", "partition": 1, "offset": 7}, "value": '{"url": "<img src=x onerror=trap(1)>"}',
        "headers": [{"name": "tenant", "value": "blue"}, {"name": "raw", "value_base64": "/w=="}],
    }  # fmt: skip
    await tab.go("/errors")
    await tab.page.fill("input[name=token]", TOKEN)
    await tab.page.locator("[data-letter]").first.click()
    shown = tab.page.locator("#letter-body")
    for text in ("no <b>answer</b>", "requests-1 offset 7", "tenant: blue", "raw: base64: /w==", "<img src=x"):
        await expect(shown).to_contain_text(text)
    [(path, headers, _)] = stand.posted
    assert (path, headers["X-Millrace-Token"]) == ("/api/letter", TOKEN)
    await tab.page.locator("#letter button").click()
    tab.expect("404")
    stand.answers["letter"] = 404, {"detail": "there is no dead letter here"}
    await tab.page.locator("[data-letter]").first.click()
    await expect(shown).to_have_text("Not shown (404): there is no dead letter here")


async def test_a_choice_is_not_lost_to_a_refresh(tab, stand):
    """While letters are chosen the list stands still: no refresh unticks a box or moves it under the pointer."""
    await tab.go("/errors")
    await tab.page.locator("#letters input[name=letter]").first.check()
    async with tab.page.expect_response(lambda response: response.url.endswith("/errors")):
        stand.query.letters.pop(0)
    async with tab.page.expect_response(lambda response: response.url.endswith("/errors")):
        pass
    assert await tab.page.locator("#letters input[name=letter]").first.is_checked()
    await tab.page.locator("#letters input[name=letter]").first.uncheck()
    await expect(tab.page.locator("#letters tbody tr")).to_have_count(22)


async def test_without_javascript_acting_pages_say_what_to_do(browser, stand):
    """Without scripts nothing can be sent; the pages name the command that can."""
    async with Tab(browser, stand.url, java_script_enabled=False) as tab:
        await tab.go("/send")
        assert "millrace send --url" in await tab.page.inner_text("main")
        await tab.go("/errors")
        assert "millrace redrive" in await tab.page.inner_text("main")
        assert await tab.page.locator("#letters input:visible").count() == 0
