"""The checks that `bench.checks` runs."""

from __future__ import annotations

from models.checks import check

PRIMES = (100_000_000_003, 100_000_000_019, 100_000_000_057, 100_000_000_063, 100_000_000_069, 100_000_000_073)
"""12-digit primes: the textbook divides each by some 158,000 odd numbers."""


def primes(count: int) -> list[int]:
    return [PRIMES[place % len(PRIMES)] for place in range(count)]


@check
def bench_trial_division(value: int) -> bool:
    """Whether a number is prime, as the textbook has it."""
    if value % 2 == 0:
        return value == 2
    divisor = 3
    while divisor * divisor <= value:
        if value % divisor == 0:
            return False
        divisor += 2
    return value > 1


@check
def bench_small(value: int) -> int:
    """Burn about 20 µs."""
    total = value
    for number in range(800):
        total += number
    return total
