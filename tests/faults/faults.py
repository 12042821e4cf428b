"""The faults: what is done to workers, brokers, network, records and upstream."""

from __future__ import annotations

import asyncio
import random
import signal

from tests.faults import on_brokers, on_network, on_pool, on_storage, on_upstream, on_workers
from tests.faults.fault import Fault
from tests.faults.on_network import network, upstream
from tests.faults.on_records import poison
from tests.faults.on_upstream import answers
from tests.faults.proxy import Weather

UNLUCKY = {"upstream_error", "timeout", "unreachable", "overloaded"}
"""What a request may come to whose upstream does not do its part: what it met, or that its host is spared."""
FAULTS = {
    "nothing": Fault(lambda _: asyncio.sleep(5)),
    "worker killed three times": Fault(on_workers.kill_workers, crash=True, hard=True),
    "worker stopped": Fault(on_workers.stop_a_worker),
    "worker frozen past its session": Fault(on_workers.freeze_a_worker, crash=True, hard=True),
    "two workers, four, one, five times": Fault(on_workers.scale),
    "rolling restart of workers": Fault(on_workers.rolling_restart, hard=True),
    "event loop blocked for 20 s": Fault(
        on_workers.block_the_loop, crash=True, unready=True, alone=True, prepare=on_workers.own_loop
    ),
    "clock jumps by two hours": Fault(
        # By their workers' clocks, results are dated hours ahead or ago, and counted in another minute.
        on_workers.jump,
        alone=True,
        unasked=("I4 tables",),
        prepare=on_workers.own_clock,
    ),
    "worker without files": Fault(on_workers.no_files, ends=True, crash=True),
    "worker without memory": Fault(
        on_workers.no_memory,
        ends=True,
        crash=True,
        fails=True,
        # aiokafka's idempotent producer adds the AttributeError, once its sender has met a MemoryError.
        logs="MemoryError|RuntimeError: can't start new thread|AttributeError: 'NoneType' object .* 'done'",
    ),
    "pool's processes killed": Fault(
        on_pool.kill_pool, alone=True, expected={"burns": {"ok", "check_error"}}, prepare=on_pool.bad_checks
    ),
    "checks that spin": Fault(
        on_pool.check("spins"),
        alone=True,
        expected={"spins": {"check_error"}, "burns": {"ok"}},
        prepare=on_pool.bad_checks,
    ),
    "checks that eat memory": Fault(
        on_pool.check("eats"),
        alone=True,
        expected={"eats": {"check_error"}, "burns": {"ok"}},
        prepare=on_pool.bad_checks,
    ),
    "brokers killed, five times": Fault(on_brokers.brokers(signal.SIGKILL, 5), crash=True, hard=True),
    "brokers stopped, five times": Fault(on_brokers.brokers(signal.SIGTERM, 5), crash=True),
    "broker frozen for 30 s": Fault(on_brokers.freeze_a_broker, crash=True),
    "broker without disk": Fault(on_brokers.fill_disk, crash=True, alone=True),
    "controller killed": Fault(on_brokers.kill_the_controller, crash=True),
    "coordinator moved": Fault(on_brokers.move_the_coordinator, crash=True),
    "all brokers down for 60 s": Fault(on_brokers.all_down(60), crash=True, unready=True),
    "all brokers down for 15 s": Fault(on_brokers.all_down(15), crash=True, hard=True),
    "leaders moved every 5 s": Fault(on_brokers.move_leaders, hard=True),
    "results under-replicated": Fault(on_brokers.too_few_replicas, crash=True, hard=True),
    "producers throttled": Fault(on_brokers.throttle("producer_byte_rate", 20_000)),
    "consumers throttled": Fault(on_brokers.throttle("consumer_byte_rate", 20_000)),
    "requests throttled": Fault(on_brokers.throttle("request_percentage", 1)),
    "logins that end after 8 s": Fault(lambda _: asyncio.sleep(30), alone=True, prepare=on_brokers.logged_in),
    "network: 500 ms": Fault(network(Weather(delay=0.5), 15)),
    "network: nothing to Kafka": Fault(network(Weather(lost_up=True), 15), crash=True),
    "network: nothing from Kafka": Fault(network(Weather(lost_down=True), 15), crash=True, hard=True),
    "network: connections cut": Fault(on_network.cut_connections, crash=True),
    # Alone, since aiokafka may need two minutes.
    "network: open connections hang": Fault(on_network.hang_connections, crash=True, alone=True),
    "network: open connections forgotten": Fault(on_network.forget_connections, crash=True),
    "network: 50,000 bytes/s": Fault(network(Weather(rate=50_000), 15), crash=True),
    "network: 7 bytes at once": Fault(network(Weather(piece=7), 10)),
    "upstream: 500 ms": Fault(upstream(Weather(delay=0.5), 10)),
    "upstream: nothing to it": Fault(upstream(Weather(lost_up=True), 15), fails=True),
    "upstream: nothing from it": Fault(upstream(Weather(lost_down=True), 15), fails=True),
    "upstream: connections cut": Fault(on_network.cut_upstream, fails=True),
    "upstream: 2,000 bytes/s": Fault(upstream(Weather(rate=2_000), 10), fails=True),
    "upstream: 3 bytes at once": Fault(upstream(Weather(piece=3), 10)),
    "upstream: 500": Fault(answers("/doc/{}?status=500", "500"), fails=True, expected={"500": UNLUCKY}),
    "upstream: 429": Fault(answers("/busy?{}"), fails=True, expected={"busy": UNLUCKY}),
    "upstream: hangs": Fault(answers("/hang?{}"), fails=True, expected={"hang": UNLUCKY}),
    "upstream: drips": Fault(answers("/drip?{}"), fails=True, expected={"drip": UNLUCKY}),
    "upstream: bombs": Fault(answers("/bomb?{}"), expected={"bomb": {"too_large"}}),
    "upstream: hangs up": Fault(answers("/close?{}"), fails=True, expected={"close": UNLUCKY}),
    "upstream: no such name": Fault(on_upstream.no_such_name, expected={"nowhere": UNLUCKY}),
    "upstream: its name leads elsewhere": Fault(
        on_upstream.name_moves, fails=True, alone=True, prepare=on_upstream.named
    ),
    "poison, tombstones, large records": Fault(poison, expected={"big": {"invalid_request"}, "larger": {"too_large"}}),
    "partitions added to requests": Fault(on_brokers.more_requests, alone=True),
    "partitions added to results": Fault(on_brokers.more_results, alone=True),
    # What is read of the new topic before the watch sees that it is one is read again.
    "requests deleted and made again": Fault(
        on_brokers.requests_anew, crash=True, alone=True, unasked=("I3 commits", "I4 tables")
    ),
    "results deleted and made again": Fault(
        on_brokers.results_anew, alone=True, unasked=("I3 commits", "I4 tables"), ends=True, crash=True
    ),
    "records deleted up to the commit": Fault(on_brokers.delete_records),
    "records deleted before they were read": Fault(on_brokers.delete_unread, alone=True),
    "records gone by retention": Fault(on_brokers.retention, alone=True),
    "memcached killed": Fault(on_storage.kill_memcached),
    "memcached frozen": Fault(on_storage.freeze_memcached),
    "memcached anew, five times": Fault(on_storage.empty_memcached),
    "cache's disk full": Fault(on_storage.fill_disk, alone=True, prepare=on_storage.small_disk),
    "cache's files torn": Fault(on_storage.tear_files, alone=True, prepare=on_storage.files),
    "tables' store deleted": Fault(on_storage.delete_store, crash=True, alone=True, prepare=on_storage.rows_on_disk),
    "tables' store damaged": Fault(on_storage.damage_store, crash=True, alone=True, prepare=on_storage.rows_on_disk),
}
"""All of them by name."""


def mix(seed: int, count: int) -> list[str]:
    """Return the names of `count` faults drawn at random; the same seed draws the same."""
    draw = random.Random(seed)
    return [draw.choice([name for name in FAULTS if name != "nothing"]) for _ in range(count)]
