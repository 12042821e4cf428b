from __future__ import annotations

import tomllib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streams.sources import lines_of

TEXT = '''# [a comment]

[sources.one]  # [not.this]
url = "http://h/"
limits.rate = 5
"quoted key".'x.y' = 1
[sources."a.b"]
headers = { A = "x", B.C = { D = 1 } }
checks = [   # ]
  "one", # "
  { name = "two" },
]

after = """
[sources.fake]
fake = 1 \\
"""
last = \'\'\'
"""
\'\'\'
  [ sources . 'a.b' . params ]
n.pattern = "[0-9]"
[[many]]
k = 1
[[many]]
k = 2
[sources.one.cache]
ttl = 1'''
LINES = {
    ("sources",): 3,
    ("sources", "one"): 3,
    ("sources", "one", "url"): 4,
    ("sources", "one", "limits"): 5,
    ("sources", "one", "limits", "rate"): 5,
    ("sources", "one", "quoted key"): 6,
    ("sources", "one", "quoted key", "x.y"): 6,
    ("sources", "a.b"): 7,
    ("sources", "a.b", "headers"): 8,
    ("sources", "a.b", "headers", "A"): 8,
    ("sources", "a.b", "headers", "B"): 8,
    ("sources", "a.b", "headers", "B", "C"): 8,
    ("sources", "a.b", "headers", "B", "C", "D"): 8,
    ("sources", "a.b", "checks"): 9,
    ("sources", "a.b", "after"): 14,
    ("sources", "a.b", "last"): 18,
    ("sources", "a.b", "params"): 21,
    ("sources", "a.b", "params", "n"): 22,
    ("sources", "a.b", "params", "n", "pattern"): 22,
    ("many",): 23,
    ("many", "0"): 23,
    ("many", "0", "k"): 24,
    ("many", "1"): 25,
    ("many", "1", "k"): 26,
    ("sources", "one", "cache"): 27,
    ("sources", "one", "cache", "ttl"): 28,
}


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("last", [False, True])
def test_every_key_has_the_line_on_which_it_begins(end, last):
    """Tables, dotted and quoted keys, inline tables and values of many lines, with either end of line, or none last."""
    text = (TEXT + "\n" if last else TEXT).replace("\n", end)
    tomllib.loads(text)
    assert lines_of(text) == LINES


@pytest.mark.parametrize("text", ["", "\n", "# nothing\n\n", "  \t\n"])
def test_a_text_without_keys_has_no_lines(text):
    """Comments and empty lines are no keys."""
    assert lines_of(text) == {}


ONE_LINE = ["1", "'x'", '"# no comment"', '"[x]"', "1 # [c]", "1979-05-27"]
MORE_LINES = ["[1,\n 2]", "[\n\n# ]\n]", '"""\na = 1\n[b]\n"""', "'''\n\n'''", "{ z = [\n1] }", "[[\n1],\n[2]]"]
VALUES = ONE_LINE + MORE_LINES
HEADS = ["", "\n", "# [x]\n", "#\n\n  # y = '''\n"]
STEPS = st.tuples(st.sampled_from(HEADS), st.sampled_from(VALUES), st.booleans())


@settings(deadline=None)
@given(st.lists(STEPS, max_size=8), st.sampled_from(["\n", "\r\n"]))
def test_no_statement_shifts_those_after_it(steps, end):
    """Whatever stands before it, a key's line is the one that an editor shows."""
    text, expected, table = "", {}, ()
    for number, (head, value, in_table) in enumerate(steps):
        text += head
        if in_table:
            table = (f"t {number}",)
            expected[table] = text.count("\n") + 1
            text += f'["t {number}"] # k = 1\n'
        expected[(*table, f"k{number}")] = text.count("\n") + 1
        text += f"k{number} = {value}\n"
    text = text.replace("\n", end)
    assert {steps: line for steps, line in lines_of(text).items() if steps[-1] != "z"} == expected


@pytest.mark.parametrize("text", ["# x\u2028y\n", 'a = "\u0085"\n', "a = '\u2029'\n", "# \u2028[t]\n"])
def test_only_the_ends_of_lines_of_toml_are_ends_of_lines(text):
    """A separator of Unicode in a comment or string is text like any other."""
    assert lines_of(text + "key = 1\n")[("key",)] == 2
