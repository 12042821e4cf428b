"""How a source's function is found, and which parameters it tells."""

from __future__ import annotations

import asyncio
import math
import subprocess

import pytest

from models.source import Param
from streams.functions import function_of, signature_of


def shown(b, c="x", *rest, d, e=None, **more):
    """Have parameters of every kind."""


def test_parameters_come_from_the_signature():
    """Those that can be given by name are a source's, with their defaults; for what tells nothing there are none."""
    assert signature_of(shown) == {"b": Param(), "c": Param(default="x"), "d": Param(), "e": Param(default=None)}
    assert signature_of(lambda: None) == {}
    assert signature_of(dict) == {}


def test_a_parameter_without_a_name_is_refused():
    """A function that cannot be called by names alone cannot be a source."""
    with pytest.raises(ValueError, match="no name"):
        signature_of(math.sqrt)


def test_a_default_of_none_is_a_default():
    """A parameter that may be left out of a call may be left out of a request."""
    assert signature_of(shown)["e"] != signature_of(shown)["d"]


async def awaited_and_iterated():
    """An async generator: it has many values, a source has one."""
    yield 1


def test_a_function_is_found_by_module_and_name():
    """The function itself comes back, plain or async."""
    assert function_of("subprocess:run") is subprocess.run
    assert function_of("asyncio:sleep") is asyncio.sleep


@pytest.mark.parametrize(
    ("call", "reason"),
    [
        ("nowhere.at.all:f", "cannot be imported: ModuleNotFoundError: "),
        ("subprocess:nothing", "cannot be imported: AttributeError: "),
        ("subprocess:PIPE", "is not a plain function"),
        (f"{__name__}:awaited_and_iterated", "is not a plain function"),
    ],
)
def test_what_is_no_function_is_refused(call, reason):
    """The message names the call and says what is wrong with it."""
    with pytest.raises(ValueError) as caught:
        function_of(call)
    assert str(caught.value).startswith(f"{call!r} {reason}")
