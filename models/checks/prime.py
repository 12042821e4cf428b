"""The built-in check `is_prime`."""

from __future__ import annotations

import math
from typing import Any

from models.checks.registry import check
from models.schema import kind

MAX_PROVED_BITS = 192
"""Bits of the largest number that is tested with enough bases for a proof, in a second or two."""

MAX_BITS = 4_096
"""Bits of the largest number that is tested at all, with one base, in 0.1 to 0.2 s; twice the bits take eightfold."""
MAX_DIGITS = 4_300
"""Digits of a string: as many as those of a number in JSON."""

# The first thirteen primes decide every number below this bound (Sorenson and Webster, 2015).
_WITNESSES = (2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41)
_WITNESS_BOUND = 3_317_044_064_679_887_385_961_981


@check
def is_prime(value: Any) -> bool:
    """Whether an integer, or a string of decimal digits, is prime, by deterministic Miller-Rabin.

    Proven below 3.3e24; above, every base up to 2·ln(n)² is tried, which is a proof under the generalised Riemann
    hypothesis (Bach, 1990). Raises TypeError for other types, and ValueError for numbers that would take too long: a
    number of more than 192 bits (58 digits) that one base cannot tell from a prime, one of more than 4,096 bits (1,234
    digits) without a factor up to 41, and a string of more than 4,300 characters.
    """
    number = _integer(value)
    if number < _WITNESSES[-1] + 1:
        return number in _WITNESSES
    if any(number % prime == 0 for prime in _WITNESSES):
        return False
    if number.bit_length() > MAX_BITS:
        msg = f"a number of {number.bit_length()} bits without a small factor: more than {MAX_BITS} are not tested"
        raise ValueError(msg)
    odd, twos = number - 1, 0
    while odd % 2 == 0:
        odd, twos = odd // 2, twos + 1
    if number.bit_length() > MAX_PROVED_BITS:
        if _composite_by(2, number, odd, twos):
            return False
        msg = f"a number of {number.bit_length()} bits that looks prime: more than {MAX_PROVED_BITS} are not proved"
        raise ValueError(msg)
    bases = _WITNESSES if number < _WITNESS_BOUND else range(2, int(2 * math.log(number) ** 2) + 1)
    return not any(_composite_by(base, number, odd, twos) for base in bases)


def _composite_by(base: int, number: int, odd: int, twos: int) -> bool:
    power = pow(base, odd, number)
    if power in (1, number - 1):
        return False
    for _ in range(twos - 1):
        power = power * power % number
        if power == number - 1:
            return False
    return True


def _integer(value: Any) -> int:
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if isinstance(value, str) and value.removeprefix("-").isdecimal() and value.isascii():
        if len(value) > MAX_DIGITS:
            msg = f"a string of {len(value)} characters: at most {MAX_DIGITS} digits are allowed"
            raise ValueError(msg)
        return int(value)
    msg = f"takes an integer, not {kind(value)}"
    raise TypeError(msg)
