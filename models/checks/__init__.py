"""CPU checks on a loaded document.

A check is a plain function of the value (the whole document, or the field that the request names) and its arguments.
What it returns becomes the `value` of the check's result; False is an answer, raising is an error.

    @check
    def is_multiple(value: int, of: int = 2) -> bool:
        return value % of == 0

registry   what checks there are, and `@check`, which adds one
signature  what type hints say about a check's value and arguments
run        runs one check in this process, whatever it does
prime      is_prime
builtin    the other built-in checks; docs/checks.md describes them all
"""

from models.checks.builtin import is_in_range, is_one_of, json_schema, length_is_within, matches, sha256
from models.checks.prime import is_prime
from models.checks.registry import Call, Check, check, check_call, check_known, find, names
from models.checks.run import MAX_VALUE_BYTES, CheckOutcome, Unread, prepare_child, run, select

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
    "prepare_child",
    "run",
    "select",
    "sha256",
]
