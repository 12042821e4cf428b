"""Routes in sources.toml."""

from __future__ import annotations

import pytest

from agents.worker import check_routes
from models.errors import SettingsError
from streams.config.settings import Settings
from streams.sources import parse

SOURCES = """
[sources.risk]
url = "https://risk.example/{id}"

[sources.prices]
url = "https://prices.example/{sku}?currency={currency}"
params.currency.default = "EUR"
"""
ROUTE = """
[routes.orders]
topics = ["orders"]
results = "enriched"

[[routes.orders.lookups]]
source = "risk"
params = { id = "value.id" }
into = "risk"
"""
PRICES = """
[[routes.orders.lookups]]
source = "prices"
params = { sku = "lookups.risk.sku" }
into = "prices"
"""


def problems(text):
    return [str(problem) for problem in parse(text.encode())[1]]


def test_a_route_is_read_with_its_lookups_in_the_order_in_which_they_can_be_asked():
    """One that uses another's document comes after it, wherever it stands."""
    lookups = PRICES + ROUTE.partition("\n\n")[2]
    text = SOURCES + ROUTE.partition("\n\n")[0] + lookups
    sources, wrong = parse(text.encode())
    assert wrong == []
    route = sources.routes["orders"]
    assert [[each.name for each in stage] for stage in route.stages] == [["risk"], ["prices"]]
    assert (route.topics, route.results, route.output, route.group("g")) == (
        ("orders",),
        "enriched",
        "merge",
        "g-orders",
    )


@pytest.mark.parametrize(
    ("text", "line", "reason"),
    [
        (ROUTE.replace('"risk"\np', '"rsk"\np'), 9, "no source 'rsk'; known: prices, risk"),
        (ROUTE.replace("{ id =", "{ ib ="), 9, "params.ib: is not a parameter of the source 'risk'; known: id"),
        (ROUTE.replace("{ id =", "{ ib ="), 9, "params: missing: the source 'risk' needs id"),
        (ROUTE.replace('"value.id"', '"valeu.id"'), 9, "no 'valeu' in a record"),
        (ROUTE.replace('"value.id"', '"lookups.x.id"'), 9, "uses lookups.x, which this route does not look up"),
        (ROUTE + PRICES.replace("lookups.risk.sku", "lookups.prices.sku"), 9, "wait for one another's answers"),
        (ROUTE.replace('"enriched"', '"orders"'), 11, "would loop"),
        (ROUTE.replace('"enriched"', '"enriched"\nfailures = "enriched"'), 12, "dead letters need one of their own"),
        (ROUTE.replace('"orders"', '"^(orders"'), 10, "is not a regular expression: missing )"),
        (ROUTE.replace('"orders"', '"^enr.*"'), 11, "'enriched' matches the pattern '^enr.*' of the topics"),
        (ROUTE.replace('"orders"', '"^e.*d"').replace('"enriched"', '"r"\nfailures = "e.d"'), 12, r"'^(?!e\.d$)e.*d'"),
        (ROUTE.replace('"enriched"', '"a b"'), 11, "is not a topic name"),
        (ROUTE.replace('"enriched"', '"e"\nformat = "text"'), 9, "cannot hold an answer"),
        (ROUTE.replace('"enriched"', '"e"\noutput = "document"'), 9, "has no place for into"),
        (ROUTE.replace("routes.orders", 'routes."9x"'), 9, "is not a valid name"),
        (ROUTE.replace("routes.orders", "routes.tables"), 9, "is the group of the tables"),
        (ROUTE.replace("results", "result"), 9, "unknown field"),
        (ROUTE + PRICES + PRICES, 9, "two are called 'prices'"),
        (ROUTE + 'whole = ["x"]', 9, "'x' is not among the params"),
        (ROUTE + "required = 0", 9, "required: Not a valid boolean"),
        (ROUTE.replace('"enriched"', '"e"\nwhen = "lookups.risk.x"'), 9, "before anything is looked up"),
    ],
)
def test_what_is_wrong_with_a_route_is_reported_at_its_line(text, line, reason):
    """With its place in the file, and what to do."""
    found = problems(SOURCES + text)
    assert any(reason in each for each in found), found
    assert any(f"line {line}" in each or f"line {number}" in each for each in found for number in range(9, 24))


@pytest.mark.parametrize(
    ("more", "problem"),
    [
        ('into = "a b"', "line 21: routes.orders.lookups.1.into: is not a path"),
        ("nope = 1", "line 21: routes.orders.lookups.1.nope: unknown field"),
        (
            '[routes.orders.lookups.params]\nsku = "value."',
            "line 22: routes.orders.lookups.1.params.sku: is not a JMESPath",
        ),
    ],
)
def test_a_problem_of_a_later_lookup_has_its_own_line(more, problem):
    """Each table of an array counts."""
    second = '\n[[routes.orders.lookups]]\nname = "other"\nsource = "prices"\n'
    [found] = problems(SOURCES + ROUTE + second + more)
    assert found.startswith(problem), found


@pytest.mark.parametrize(
    ("topics", "results", "failures", "problem"),
    [
        ("results", "requests", None, "results: 'requests' leads back to this route through the worker's requests"),
        ("dead-letters", "requests", "f", "results: 'requests' leads back to this route"),
        ("dead-letters", "out", None, "failures: 'dead-letters' is read by this route"),
        ("orders", "out", "requests", "failures: 'requests' has the worker's own requests"),
        ("orders", "workers", None, "topics: 'workers' has the reports of workers"),
        ("dead-letters", "out", "f", None),
        ("requests", "out", None, None),
        ("orders", "requests", None, None),
    ],
)
def test_records_that_would_go_round_by_way_of_the_worker_are_refused(topics, results, failures, problem):
    """Its requests become its results and dead letters; what a route makes of those must not become requests again."""
    route = ROUTE.replace('["orders"]', f'["{topics}"]').replace('"enriched"', f'"{results}"')
    route = route.replace("\n\n", f'\nfailures = "{failures}"\n\n' if failures else "\n\n", 1)
    sources, wrong = parse((SOURCES + route).encode())
    assert wrong == []
    own = Settings(requests_topic="requests", results_topic="results", dead_letters_topic="dead-letters",
                   workers_topic="workers")  # fmt: skip
    if problem is None:
        check_routes(own, sources)
    else:
        with pytest.raises(SettingsError, match=problem):
            check_routes(own, sources)


def test_records_that_would_go_round_between_routes_are_refused():
    """Results of one that come back to it by way of another; a chain of two is none."""
    second = ROUTE.replace("orders", "again").replace('topics = ["again"]', 'topics = ["enriched"]')
    chain = second.replace('results = "enriched"', 'results = "twice"')
    assert problems(SOURCES + ROUTE + chain) == []
    loop = second.replace('results = "enriched"', 'results = "orders"')
    assert any("leads back to this route" in each for each in problems(SOURCES + ROUTE + loop))


def test_what_comes_back_by_a_pattern_goes_round_too():
    """A chain by a pattern is none that goes round; dead letters that another route reads by one are refused."""
    second = ROUTE.replace("orders", "again").replace('topics = ["again"]', 'topics = ["^enri.*"]')
    chain = second.replace('results = "enriched"', 'results = "twice"')
    assert problems(SOURCES + ROUTE + chain) == []
    loop = second.replace('results = "enriched"', 'results = "orders"')
    assert any("leads back to this route" in each for each in problems(SOURCES + ROUTE + loop))
    failing = ROUTE.replace('results = "enriched"', 'results = "r"\nfailures = "enriched-failed"')
    assert any("is read by the route again" in each for each in problems(SOURCES + failing + chain))


def test_a_pattern_matches_whole_names_and_no_internal_topics():
    """Names come first and once; what begins with two underscores is nobody's."""
    text = SOURCES + ROUTE.replace('["orders"]', r"""["orders", '^(orders|__orders)\.?[a-z-]*']""")
    sources, wrong = parse(text.encode())
    assert wrong == []
    route = sources.routes["orders"]
    names = ["orders.eu", "orders", "my-orders", "orders.2", "__orders", "orders-us"]
    assert route.matched(names).topics == ("orders", "orders-us", "orders.eu")
    assert (route.names, route.all_topics) == (("orders",), ("orders", "enriched"))


@pytest.mark.parametrize(
    ("topics", "reason"),
    [
        ("['^res.*']", "topics: the pattern '^res.*' matches the worker's own topic 'results': leave it out"),
        ("['^dead.*']", "topics: the pattern '^dead.*' matches the worker's own topic 'dead-letters': leave it out"),
    ],
)
def test_a_route_does_not_read_what_the_worker_writes_by_chance(topics, reason):
    """A pattern that matches topics of the worker is refused at the start."""
    sources, wrong = parse((SOURCES + ROUTE.replace('["orders"]', topics)).encode())
    assert wrong == []
    with pytest.raises(SettingsError) as caught:
        check_routes(Settings(), sources)
    assert str(caught.value) == f"route orders: {reason}"


@pytest.mark.slow
def test_without_routes_no_expression_library_is_loaded():
    """A worker without routes pays nothing, one with plain paths alone no more than they cost."""
    import subprocess
    import sys

    code = (
        f"import sys; from streams.sources import parse; assert not parse({(SOURCES + ROUTE)!r}.encode())[1]; "
        "assert 'jmespath' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_routes_that_do_not_go_with_the_settings_stop_the_start():
    """Topics of the worker's own, and a registry that is not named."""
    text = SOURCES + ROUTE.replace('"enriched"', '"results"\nfailures = "results-2"\nformat = "avro"')
    sources, wrong = parse(text.encode())
    assert wrong == []
    with pytest.raises(SettingsError) as caught:
        check_routes(Settings(), sources)
    assert str(caught.value).splitlines() == [
        "route orders: results: 'results' has the worker's own results or dead letters",
        "route orders: its records need a schema registry: set MILLRACE_REGISTRY_URL",
    ]


def test_lookups_in_a_row_may_not_take_longer_than_a_request():
    """The watchdog would take a record that is still at it for a fault, and end one worker after the other."""
    sources, wrong = parse((SOURCES + ROUTE + PRICES).encode())
    assert wrong == []
    check_routes(Settings(timeout=150), sources)
    with pytest.raises(SettingsError, match="may take 302 s in all; at most 300"):
        check_routes(Settings(timeout=151), sources)


def test_what_is_tried_again_later_does_not_go_with_exactly_once():
    """A worker does not start with both: the offsets of what is tried again would not be in its transactions."""
    sources, _ = parse((SOURCES + 'retry_later = ["1m"]\n').encode())
    check_routes(Settings(), sources)
    with pytest.raises(SettingsError, match=r"retry_later: .*exactly-once: leave out one of the two"):
        check_routes(Settings(delivery="exactly-once"), sources)
