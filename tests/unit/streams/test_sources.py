from __future__ import annotations

import subprocess
import sys
from datetime import date
from pathlib import Path

import pytest

from models.errors import SettingsError
from models.source import REQUIRED, Bearer, Limits, Secret
from models.strictjson import dumps
from streams.sources import MAX_FILE_BYTES, load, parse

SECRETS = {"ONE": "hunter2-one", "TWO": "hunter2-two"}
ROOT = Path(__file__).parents[3]


@pytest.fixture(autouse=True)
def _secrets(monkeypatch):
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("streams.config.secrets.SECRET_COST", 2)


def wrong(text):
    """Return what is told of a file; never a secret."""
    told = [str(problem) for problem in parse(text if isinstance(text, bytes) else text.encode())[1]]
    assert "hunter2" not in "".join(told)
    return told


def read(text):
    found, problems = parse(text.encode())
    assert problems == []
    return found


def identity(text, name="a"):
    return read(text).by_name[name].identity


def plain(members="", name="a"):
    return f"[sources.{name}]\nurl = 'http://h/{{n}}'\n{members}\n"


def dated(day=date(2020, 1, 1)):
    return str(day)


def answer(n, unit="m", *rest, scale=1, **more):
    """Be a plugin's function."""


@pytest.mark.parametrize("written", ["1.10", "0.29999999999999998", "1e2", "-0.00001", "1_0.50", "+2.0"])
def test_a_number_in_the_file_keeps_its_digits(written):
    """A default of 1.10 is 1.10 in URLs and bodies, as a request's own would be."""
    source = read(f'[sources.a]\nurl = "https://a.example/?v={{v}}"\nparams.v.default = {written}\n').by_name["a"]
    digits = written.replace("_", "").lstrip("+")
    assert source.params["v"].default == float(digits)
    assert dumps(source.params["v"].default, exact=True).decode() == digits


def test_a_file_makes_sources_and_hosts():
    """Each table is a source under its name, dots and all; names of hosts have no case."""
    found = read(plain() + plain("timeout = 2", '"b.c"') + "[hosts.'Example.COM:81']\nconcurrency = 3\n")
    assert {name: source.name for name, source in found.by_name.items()} == {"a": "a", "b.c": "b.c"}
    assert found.by_name["b.c"].timeout == 2.0
    assert found.hosts == {"example.com:81": Limits(3)}


def test_an_empty_file_makes_none():
    """No tables are no mistake."""
    assert read("# nothing yet\n[sources]\n").by_name == {}


def test_the_example_is_right(monkeypatch):
    """The file that a new operator starts from has no problem."""
    monkeypatch.setenv("DEMO_TOKEN", "t")
    example = (ROOT / "agents/commands/sources.example.toml").read_text(encoding="utf-8")
    found = read(example)
    assert found.by_name["numbers"].auth == Bearer(Secret("env", "DEMO_TOKEN"))


BAD = """\
[sources.a]
url = "http://h/{"
limits.burst = 5
timeout = "1"
cache = { ttl = 1, stale = 2 }
checks = [
  "is_prime",
  "nope",
]

[sources."b.c".retry]
attempts = 0
[sources."b.c"]
url = "http://h/"
headers.X = { env = "UNSET" }

[hosts.h]
concurrency = 0

[source.d]
"""
TOLD = [
    "line 2: sources.a.url: '{' at character 10 is not a parameter: write {name}, or {{",
    "line 3: sources.a.limits.burst: goes with a rate",
    "line 4: sources.a.timeout: must be a number of seconds, not a string",
    "line 5: sources.a.cache.stale: unknown field",
    (
        "line 6: sources.a.checks.1.name: unknown check 'nope'; known: is_prime, json_schema, length, one_of, range, "
        "regex, sha256"
    ),
    "line 12: sources.b.c.retry.attempts: Must be greater than or equal to 1 and less than or equal to 20",
    "line 15: sources.b.c.headers.X: UNSET is not set",
    "line 18: hosts.h.concurrency: Must be greater than or equal to 1",
    "line 20: source: unknown table; known: sources, hosts, routes",
]


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_every_problem_is_told_with_its_line(end):
    """Wrong values of all tables come at once, in the order of lines."""
    assert wrong(BAD.replace("\n", end)) == TOLD


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[sources.a]\nurl=\n", "line 2: is not TOML: Invalid value"),
        ("\n[sources.a\n", "line 2: is not TOML: Expected ']' at the end of a table declaration"),
        ("[sources.a]\nurl='x'\nurl='y'\n", "line 3: is not TOML: Cannot overwrite a value"),
        ("a = [\n1,\n", "line 3: is not TOML: Invalid value (at end of document)"),
        (b"a = 1\n\nb = '\xff'\n", "line 3: is not UTF-8"),
        (b"#" * (MAX_FILE_BYTES + 1), "line 1: the file has 1048577 bytes; at most 1048576 are read"),
        ("sources = 5", "line 1: sources: must be a table of tables"),
        ("\n[[sources]]\nurl = 'x'", "line 2: sources: must be a table of tables"),
        ("\nsources.a = 5", "line 2: sources.a: must be a table"),
        ("\n\nhosts = []", "line 3: hosts: must be a table of tables"),
    ],
)
def test_what_is_no_file_of_sources_is_told(text, told):
    """Broken TOML, other encodings, too much and tables that are none are told with the line."""
    assert wrong(text) == [told]


def test_a_file_of_exactly_the_limit_is_read():
    """One MiB is within the limit."""
    assert wrong(plain().encode() + b"#" * (MAX_FILE_BYTES - len(plain()))) == []


@pytest.mark.parametrize("text", ["\na = " + "1" * 5000, "\na = " + "[" * 2000 + "]" * 2000])
def test_what_tomllib_cannot_read_is_told(text):
    """A number or nesting beyond Python's own limits is a problem of the file."""
    assert wrong(text)


def test_a_wrong_key_of_a_parameter_is_told_with_its_line():
    """A table of a parameter is told like any other."""
    assert wrong(plain("[sources.a.params.n]\ndefault = 1\npattern = '('")) == [
        "line 5: sources.a.params.n.pattern: missing ), unterminated subpattern at position 0"
    ]


def test_every_wrong_header_is_told_with_its_line():
    """A long table of headers is no place to search in."""
    told = wrong(
        plain("[sources.a.headers]\nX = { env = 'ONE' }\nY = '{'\nZ = 'hunter2'\nHost = 'h'\nZ2 = { a = 'b' }")
    )
    assert [line.partition(": ")[0] for line in told] == ["line 5", "line 7", "line 8"]


def test_a_function_that_is_not_there_is_told_beside_other_problems():
    """Every problem is told at once."""
    assert len(wrong("[sources.a]\ncall = 'nowhere:f'\ntimeout = -1\n")) == 2


@pytest.mark.parametrize(
    ("auth", "told"),
    [
        ("{ type = 'bearer', token = 'hunter2' }", "sources.a.auth.token: a secret must not be written here: "),
        ("{ type = 'bearer', token = { env = 'UNSET' } }", "sources.a.auth.token: UNSET is not set"),
        ("{ type = 'bearer', token = { file = '/no' } }", "sources.a.auth.token: '/no' cannot be read: No such file"),
        (
            "{ type = 'bearer', token = { env = 'BAD' } }",
            "sources.a.auth.token: 'BAD' holds characters that cannot be sent",
        ),
        ("'hunter2'", "sources.a.auth: must be a table, not a string"),
    ],
)
def test_a_secret_is_never_told(auth, told, monkeypatch):
    """Whatever is wrong with a secret, the message says where and why, and not what it is."""
    monkeypatch.setenv("BAD", "hunter2\u00e4")
    [line] = wrong(plain(f"auth = {auth}"))
    assert line.startswith(f"line 3: {told}")


def test_a_missing_secret_is_told_beside_other_problems():
    """A source that is wrong elsewhere has its secrets looked at too."""
    assert len(wrong(plain("timeout = 0\nauth = { type = 'bearer', token = { env = 'UNSET' } }"))) == 2


def test_tls_files_that_are_of_no_use_are_told(tmp_path):
    """A certificate that is not there stops the start; a missing password is told instead of it."""
    assert wrong(plain(f"\n[sources.a.tls]\nca = '{tmp_path}/ca'")) == [
        f"line 4: sources.a.tls: {tmp_path}/ca: No such file or directory"
    ]
    assert wrong(plain("tls = { cert = '/no', key_password = { env = 'UNSET' } }")) == [
        "line 3: sources.a.tls.key_password: UNSET is not set"
    ]


CALL = f"[sources.a]\ncall = '{__name__}:answer'\n"


def test_a_function_s_parameters_are_its_source_s():
    """Named parameters are taken from the signature with their defaults; those told in the file hold instead."""
    params = read(CALL).by_name["a"].params
    assert {name: param.default for name, param in params.items()} == {"n": REQUIRED, "unit": "m", "scale": 1}
    assert read(CALL + "params.n.default = 5").by_name["a"].params["n"].default == 5


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[hosts.e.com]\nrate = 5", 'line 1: hosts.e.com: a name with dots needs quotes: [hosts."e.com"]'),
        ("[hosts.a.b.e.com]\nrate = 5", 'line 1: hosts.a.b: a name with dots needs quotes: [hosts."a.b.e.com"]'),
        ("[hosts.'a.b']\nfoo = { x = 1 }", "line 2: hosts.a.b.foo: unknown field"),
        (plain("cache = 60"), "line 3: sources.a.cache: must be a table"),
        (plain("retry_later = '1m'"), "line 3: sources.a.retry_later: must be an array: write it in brackets"),
    ],
)
def test_what_is_wrong_is_told_in_the_words_of_the_file(text, told):
    """It is TOML: no JSON object is meant, and a host's name is no path of tables."""
    assert wrong(text) == [told]


@pytest.mark.parametrize("call", ["nowhere:f", "json:nothing", "math:pi", "os..path:join"])
def test_a_function_that_cannot_be_called_is_told(call):
    """A module or name that is not there, and a value, are no functions."""
    [told] = wrong(f"[sources.a]\n\ncall = '{call}'\n")
    assert told.startswith(f"line 3: sources.a.call: {call!r} ")


def test_a_function_s_default_that_json_does_not_have_is_told():
    """Every request without the parameter would fail as by a fault of the worker; a default in the file is enough."""
    dated = f"[sources.a]\n\ncall = '{__name__}:dated'\n"
    [told] = wrong(dated)
    assert told == (
        f"line 3: sources.a.call: {__name__}:dated: the default of day is a date, which JSON does not have: "
        "give params.day.default here, or None there"
    )
    assert read(dated + "params.day.default = '2020-01-01'").by_name["a"].params["day"].default == "2020-01-01"


@pytest.mark.parametrize(("limits", "threads"), [("", None), ("limits.rate = 5", 8), ("limits.concurrency = 3", 3)])
def test_a_function_is_called_eight_times_at_once_unless_its_source_says_otherwise(limits, threads):
    """A rate, which is to spare it, does not give it four times the threads."""
    source = read(CALL + limits).by_name["a"]
    assert threads == (None if source.limits is None else source.limits.concurrency)
    assert read(plain("limits.rate = 5")).by_name["a"].limits.concurrency == 32


TOKEN = "auth = {{ type = 'bearer', token = {{ env = '{}' }} }}"
BOTH = "headers.X = { env = 'ONE' }\n" + TOKEN.format("TWO")


def test_an_identity_is_of_the_definition():
    """It is the same for the same table, in whatever order, and another for another name or any other value."""
    same = {identity(plain("timeout = 1\nread_timeout = 2")), identity("# x\n" + plain("read_timeout = 2\ntimeout=1"))}
    assert len(same) == 1
    others = {identity(plain()), identity(plain("timeout = 2")), identity(plain("method = 'HEAD'")),
              identity(plain("checks = ['is_prime']")), identity(plain(name="b"), "b")}  # fmt: skip
    assert len(others | same) == 6


def test_an_identity_is_of_the_secrets(monkeypatch):
    """It changes with a secret's value, and with which of two is where; it does not hold them."""
    found = {identity(plain(BOTH)), identity(plain(TOKEN.format("ONE"))), identity(plain(TOKEN.format("TWO")))}
    monkeypatch.setenv("ONE", "hunter2-three")
    found.add(identity(plain(TOKEN.format("ONE"))))
    monkeypatch.setenv("ONE", SECRETS["TWO"])
    monkeypatch.setenv("TWO", SECRETS["ONE"])
    found.add(identity(plain(BOTH)))
    assert len(found) == 5
    assert {len(each) for each in found} == {32}


@pytest.mark.slow
def test_an_identity_is_the_same_in_every_process():
    """Workers share what they keep: the seed of a process's hashes is no part of it."""
    code = f"from streams.sources import parse; print(parse({plain(BOTH).encode()!r})[0].by_name['a'].identity)"
    found = {
        subprocess.run([sys.executable, "-c", code], cwd=ROOT, env={**SECRETS, "PYTHONHASHSEED": seed},
                       capture_output=True, check=True).stdout
        for seed in "1234"
    }  # fmt: skip
    assert len(found) == 1


def test_no_path_is_no_sources():
    """Sources are not needed."""
    assert load("").by_name == {}


def test_a_file_is_loaded_or_refused_with_all_that_is_wrong(tmp_path):
    """A bad file is a SettingsError with a line for each problem, which says the file too."""
    path = tmp_path / "sources.toml"
    path.write_text(plain(), encoding="utf-8")
    assert load(str(path)).by_name.keys() == {"a"}
    path.write_text(BAD, encoding="utf-8")
    with pytest.raises(SettingsError) as caught:
        load(str(path))
    assert str(caught.value).splitlines() == [f"{path}: {told}" for told in TOLD]


@pytest.mark.parametrize(("name", "reason"), [("no.toml", "No such file or directory"), (".", "Is a directory")])
def test_a_file_that_cannot_be_read_is_refused(tmp_path, name, reason):
    """The message names the setting and the file."""
    with pytest.raises(SettingsError) as caught:
        load(str(tmp_path / name))
    assert str(caught.value) == f"MILLRACE_SOURCES: {str(tmp_path / name)!r} cannot be read: {reason}"


def test_a_host_that_no_request_names_is_told():
    """Limits of what is no host would hold for nobody."""
    [told] = wrong("[hosts.'no host port']\nconcurrency = 3\n")
    assert told == "line 1: hosts.no host port: is not a host: give host, or host:port"


@pytest.mark.parametrize(
    ("name", "known"), [("H.example", "h.example"), ("h:80", "h"), ("h:443", "h"), ("h:8080", "h:8080")]
)
def test_a_host_s_limits_are_found_by_how_requests_name_it(name, known):
    """Case and a port that is the scheme's own make no other host."""
    assert list(read(f"[hosts.'{name}']\nconcurrency = 3\n").hosts) == [known]


NO_DELAY = "'soon' is not a delay: use a whole number with s, m, h or d, such as '10m'"


@pytest.mark.parametrize(
    ("lines", "problem"),
    [
        ('retry_later = ["1m", "soon"]', "line 3: sources.a.retry_later.1: " + NO_DELAY),
        ('retry_later = ["8d"]', "line 3: sources.a.retry_later.0: '8d' is longer than 7 days"),
        ("retry_later = []", "line 3: sources.a.retry_later: Length must be between 1 and 16"),
        ("retry_later = [60]", "line 3: sources.a.retry_later.0: cannot be a number"),
        ("interim_results = true", "line 3: sources.a.interim_results: goes with retry_later"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_later_try_has_its_line(lines, problem):
    """Each with what to write instead."""
    _, wrong = parse(f"[sources.a]\nurl = 'http://h/'\n{lines}\n".encode())
    assert [str(each).rstrip(".") for each in wrong] == [problem]


def test_the_delays_of_sources_and_routes_are_known_together():
    """Each once: they have a topic each."""
    text = b"""
[sources.a]
url = "http://h/"
retry_later = ["1m", "10m"]
interim_results = true
[routes.r]
topics = ["t"]
results = "o"
retry_later = ["1m", "1h"]
lookups = [{ source = "a" }]
"""
    sources, wrong = parse(text)
    assert (wrong, sources.delays, sources.by_name["a"].later) == ([], {60, 600, 3600}, ((60, 600), True))
    assert sources.routes["r"].later == ((60, 3600), False)
    for change, problem in (
        (b"[routes.later]", "line 6: routes.later: is the group of what is tried again later"),
        (b"[routes.r]\ninterim_results = true", "line 7: routes.r.interim_results: goes with"),
    ):
        _, wrong = parse(text.replace(b"[routes.r]", change))
        assert [str(each)[: len(problem)] for each in wrong] == [problem]
