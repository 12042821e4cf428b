"""CPU checks on a loaded document.

A check is a plain function of the value (the whole document, or the field that the request names) and its arguments.
Its return value becomes the `value` of the check result; False is a value, an exception is an error.

    @check
    def is_multiple(value: int, of: int = 2) -> bool:
        return value % of == 0

registry   the registered checks, and `@check`, which adds one
signature  the type hints of a check's value and arguments, as JSON types
run        runs one check in this process
prime      is_prime
builtin    the other built-in checks; docs/checks.md describes them all
"""

from models.checks.builtin import is_in_range, is_one_of, json_schema, length_is_within, matches, sha256
from models.checks.prime import is_prime
from models.checks.registry import Call, Check, check, check_call, check_known, find, names
from models.checks.run import MAX_VALUE_BYTES, CheckOutcome, Unread, run, select

__all__ = [
    "MAX_VALUE_BYTES",
    "Call",
    "Check",
    "CheckOutcome",
    "Unread",
    "check",
    "check_call",
    "check_known",
    "find",
    "is_in_range",
    "is_one_of",
    "is_prime",
    "json_schema",
    "length_is_within",
    "matches",
    "names",
    "run",
    "select",
    "sha256",
]
