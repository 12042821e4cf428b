from __future__ import annotations

import dataclasses
import os
from urllib.parse import unquote, urlsplit

import pytest

from models.errors import SettingsError
from streams.config import settings
from streams.config.cache_url import MemoryTier, parse_tiers
from streams.config.declaration import MASK
from streams.config.settings import DECLARED, Kafka, Settings
from streams.kafka.client import places


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch):
    """Let no setting of the machine reach a test."""
    for name in list(os.environ):
        if name.startswith(("KAFKA_", "MILLRACE_")):
            monkeypatch.delenv(name)


@pytest.fixture
def load(monkeypatch):
    """Load the settings from an environment of just these variables."""

    def load_from(**variables):
        for name, value in variables.items():
            monkeypatch.setenv(name, str(value))
        return settings.load()

    return load_from


def test_without_an_environment_the_defaults_hold(load):
    """The defaults that load gives are the dataclasses' own, and those of the contract."""
    loaded = load()
    assert loaded.kafka == Kafka()
    for field in dataclasses.fields(Settings):
        if field.name not in ("kafka", "worker_id"):
            assert getattr(loaded, field.name) == field.default, field.name
    assert loaded.kafka.bootstrap_servers == "localhost:9092"
    assert (loaded.max_in_flight, loaded.timeout, loaded.max_bytes) == (256, 30.0, 8 << 20)
    assert (loaded.web_host, loaded.web_port) == ("127.0.0.1", 6066)
    assert parse_tiers(loaded.cache) == (MemoryTier(10_000, 64 << 20, 60.0),)
    assert loaded.topics() == ("requests", "results", "dead-letters")


def test_every_worker_has_an_id_of_its_own(load):
    """Two loads make two ids unless one is given."""
    first, second = load().worker_id, load().worker_id
    assert first
    assert first != second
    assert load(MILLRACE_WORKER_ID="w-1").worker_id == "w-1"


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("MILLRACE_GROUP", "g", "g"),
        ("MILLRACE_REQUESTS_TOPIC", "a.b_c-D9", "a.b_c-D9"),
        ("MILLRACE_RESULTS_TOPIC", "x" * 249, "x" * 249),
        ("MILLRACE_DEAD_LETTERS_TOPIC", "d", "d"),
        ("MILLRACE_PLUGINS", "", ()),
        ("MILLRACE_PLUGINS", " a.b , ,c,", ("a.b", "c")),
        ("MILLRACE_CARRY_HEADERS", " tenant, reply-to,", ("tenant", "reply-to")),
        ("MILLRACE_CARRY_HEADERS", "", ()),
        ("MILLRACE_CACHE", "memory://?ttl=5", "memory://?ttl=5"),
        ("MILLRACE_CACHE", "memory:// file:///c memcached://a,b", "memory:// file:///c memcached://a,b"),
        ("MILLRACE_MAX_IN_FLIGHT", "1", 1),
        ("MILLRACE_TIMEOUT", "300", 300.0),
        ("MILLRACE_TIMEOUT", "0.5", 0.5),
        ("MILLRACE_MAX_BYTES", "64KiB", 65536),
        ("MILLRACE_MAX_BYTES", "1", 1),
        ("MILLRACE_SOURCES", __file__, __file__),
        ("MILLRACE_PROXY", "", None),
        ("MILLRACE_PROXY", "http://proxy:3128", "http://proxy:3128"),
        ("MILLRACE_POOL_WORKERS", "3", 3),
        ("MILLRACE_REGISTRY_URL", "", ""),
        ("MILLRACE_REGISTRY_URL", "http://r:8081", "http://r:8081"),
        (
            "MILLRACE_REGISTRY_URL",
            "https://r/apis/ccompat/v7, http://[::1]:80/",
            "https://r/apis/ccompat/v7, http://[::1]:80/",
        ),
        ("MILLRACE_REGISTRY_TOKEN", "t", "t"),
        ("MILLRACE_REGISTRY_TOKEN", "", None),
        ("MILLRACE_REGISTRY_USERNAME", "", None),
        ("MILLRACE_REGISTRY_CA", __file__, __file__),
        ("MILLRACE_REGISTRY_CERT", __file__, __file__),
        ("MILLRACE_WEB_HOST", "0.0.0.0", "0.0.0.0"),
        ("MILLRACE_WEB_PORT", "0", 0),
        ("MILLRACE_WEB_PORT", "65535", 65535),
        ("MILLRACE_WEB_TOKEN", "", None),
        ("MILLRACE_WEB_TOKEN", "t", "t"),
        ("MILLRACE_LOG_LEVEL", "DEBUG", "DEBUG"),
    ],
)
def test_a_setting_is_read_from_its_variable(load, name, text, value):
    """Each variable sets its field, in the field's unit and type."""
    field = name.removeprefix("MILLRACE_").lower()
    assert getattr(load(**{name: text}), field) == value


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("KAFKA_BOOTSTRAP_SERVERS", "a:1"),
        ("KAFKA_BOOTSTRAP_SERVERS", "a:9092, b:9093,[::1]:9094"),
        ("KAFKA_SECURITY_PROTOCOL", "SASL_SSL"),
        ("KAFKA_SASL_MECHANISM", "SCRAM-SHA-512"),
        ("KAFKA_SASL_USERNAME", "user"),
        ("KAFKA_SASL_PASSWORD", "hunter2"),
        ("KAFKA_SSL_CAFILE", "/ca.pem"),
        ("KAFKA_SSL_CERTFILE", "/cert.pem"),
        ("KAFKA_SSL_KEYFILE", "/key.pem"),
        ("KAFKA_SSL_PASSWORD", "hunter3"),
    ],
)
def test_a_setting_of_kafka_is_read_from_its_variable(load, name, text):
    """Each variable of the broker's sets its field as it stands."""
    whole = {"KAFKA_SASL_USERNAME": "u", "KAFKA_SASL_PASSWORD": "p"}
    whole |= {"KAFKA_SSL_CERTFILE": "/c", "KAFKA_SSL_KEYFILE": "/k"}
    assert getattr(load(**whole | {name: text}).kafka, name.removeprefix("KAFKA_").lower()) == text


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"KAFKA_SECURITY_PROTOCOL": "SASL_SSL"}, "KAFKA_SASL_USERNAME"),
        ({"KAFKA_SECURITY_PROTOCOL": "SASL_PLAINTEXT", "KAFKA_SASL_USERNAME": "u"}, "KAFKA_SASL_PASSWORD"),
        ({"KAFKA_SSL_KEYFILE": "/k"}, "KAFKA_SSL_CERTFILE"),
        ({"KAFKA_BOOTSTRAP_SERVERS": "a:" + "9" * 5000}, "not host:port"),
        ({"KAFKA_BOOTSTRAP_SERVERS": "a:70000"}, "not host:port"),
    ],
)
def test_a_login_that_cannot_work_is_refused(load, given, named):
    """What aiokafka would fail on later, with a bare ValueError, is told at the start, by name."""
    with pytest.raises(SettingsError, match=named):
        load(**given)


WRONG = [
    *(
        ("MILLRACE_CARRY_HEADERS", f"tenant,{name}", f"{name!r} cannot be carried")
        for name in ("ce_id", "CE_x", "traceparent", "tracestate", "Content-Type", "__dlq.errors.topic")
    ),
    ("KAFKA_BOOTSTRAP_SERVERS", "", "'' is not host:port"),
    ("KAFKA_BOOTSTRAP_SERVERS", "kafka", "'kafka' is not host:port"),
    ("KAFKA_BOOTSTRAP_SERVERS", "kafka:", "'kafka:' is not host:port"),
    ("KAFKA_BOOTSTRAP_SERVERS", ":9092", "':9092' is not host:port"),
    ("KAFKA_BOOTSTRAP_SERVERS", "a:1,b", "'b' is not host:port"),
    ("KAFKA_BOOTSTRAP_SERVERS", "a:1,", "'' is not host:port"),
    ("KAFKA_BOOTSTRAP_SERVERS", "a:-1", "'a:-1' is not host:port"),
    ("KAFKA_BOOTSTRAP_SERVERS", "a:1/x", "'a:1/x' is not host:port"),
    ("KAFKA_BOOTSTRAP_SERVERS", "a:0", "'a:0' is not host:port"),
    ("KAFKA_BOOTSTRAP_SERVERS", "a:65536", "'a:65536' is not host:port"),
    ("KAFKA_BOOTSTRAP_SERVERS", "a:1,b:99999", "'b:99999' is not host:port"),
    ("KAFKA_SECURITY_PROTOCOL", "TLS", "Must be one of: PLAINTEXT, SSL, SASL_PLAINTEXT, SASL_SSL"),
    ("KAFKA_SASL_MECHANISM", "GSSAPI", "Must be one of: PLAIN, SCRAM-SHA-256"),
    ("MILLRACE_GROUP", "", "is not a group"),
    ("MILLRACE_REQUESTS_TOPIC", "", "'' is not a topic name"),
    ("MILLRACE_RESULTS_TOPIC", "a b", "'a b' is not a topic name"),
    ("MILLRACE_DEAD_LETTERS_TOPIC", "x" * 250, "is not a topic name"),
    ("MILLRACE_REQUESTS_TOPIC", "a\nb", "is not a topic name"),
    ("MILLRACE_REQUESTS_TOPIC", ".", "'.' is not a topic name"),
    ("MILLRACE_RESULTS_TOPIC", "..", "'..' is not a topic name"),
    ("MILLRACE_REQUESTS_TOPIC", "ä", "'ä' is not a topic name"),
    ("MILLRACE_CACHE", "", "'' is not a cache URL: give memory://, file:///folder or memcached://host:port"),
    (
        "MILLRACE_CACHE",
        "redis://x",
        "'redis://x' is not a cache URL: give memory://, file:///folder or memcached://host:port",
    ),
    ("MILLRACE_CACHE", "memory:// file://tmp", "'file://tmp' names no folder: give file:///var/cache/millrace"),
    ("MILLRACE_CACHE", "memcached://", "'' is not a memcached server: give host or host:port"),
    ("MILLRACE_CACHE", "memory:// memory://", "memory:// comes once, and first"),
    ("MILLRACE_CACHE", "memory://?size=3", "'size' is not an option of memory://; known: entries, bytes, ttl"),
    ("MILLRACE_CACHE", "memory://?entries=0", "entries=0 must be a number more than 0"),
    ("MILLRACE_CACHE", "memory://?bytes=lots", "bytes=lots must be a number more than 0"),
    ("MILLRACE_MAX_IN_FLIGHT", "0", "Must be greater than or equal to 1"),
    ("MILLRACE_MAX_IN_FLIGHT", "many", "Not a valid integer"),
    ("MILLRACE_MAX_IN_FLIGHT", "2.5", "Not a valid integer"),
    ("MILLRACE_MAX_IN_FLIGHT", "9" * 5000, "Not a valid integer"),
    ("MILLRACE_TIMEOUT", "301", "less than or equal to 300"),
    ("MILLRACE_TIMEOUT", "0", "Must be greater than 0"),
    ("MILLRACE_TIMEOUT", "-1", "Must be greater than 0"),
    ("MILLRACE_TIMEOUT", "nan", "nan or infinity"),
    ("MILLRACE_TIMEOUT", "inf", "nan or infinity"),
    ("MILLRACE_TIMEOUT", "30s", "Not a valid number"),
    ("MILLRACE_MAX_BYTES", "", "'' is not a size"),
    ("MILLRACE_MAX_BYTES", "0", "'0' is not a size"),
    ("MILLRACE_MAX_BYTES", "8 megs", "'8 megs' is not a size"),
    ("MILLRACE_PROXY", "http://proxy:99999", "is not a proxy URL: give http://host:port"),
    ("MILLRACE_PROXY", "http://[::1:3128", "is not a proxy URL: give http://host:port"),
    ("KAFKA_BOOTSTRAP_SERVERS", "PLAINTEXT://h:9092", "give host:port alone; the protocol is KAFKA_SECURITY_PROTOCOL"),
    ("KAFKA_BOOTSTRAP_SERVERS", "fe80::zz:9092", "'fe80::zz:9092' is not host:port"),
    ("KAFKA_BOOTSTRAP_SERVERS", "h:70000", "'h:70000' is not host:port"),
    ("MILLRACE_NAT64_PREFIXES", "64:ff9b:1::/80", "is not a NAT64 prefix: IPv6, of length /32, /40"),
    (
        "MILLRACE_WEB_URL",
        "http://fd00::zz:6066",
        "is not the URL of a worker: http://host:port, an IPv6 address in brackets",
    ),
    ("MILLRACE_WEB_URL", "http://[fd00::5", "is not the URL of a worker"),
    ("MILLRACE_WEB_URL", "http://h:70000", "is not the URL of a worker"),
    ("MILLRACE_PROXY", "proxy:3128", "is not a proxy URL: give http://host:port, or http://user:password@host:port"),
    ("MILLRACE_POOL_WORKERS", "-1", "Must be greater than or equal to 0"),
    ("MILLRACE_WEB_HOST", "", "Shorter than minimum length 1"),
    ("MILLRACE_WEB_PORT", "65536", "less than or equal to 65535"),
    ("MILLRACE_WEB_PORT", "http", "Not a valid integer"),
    ("MILLRACE_LOG_LEVEL", "LOUD", "Must be one of: DEBUG, INFO, WARNING, ERROR"),
]


@pytest.mark.parametrize(
    ("given", "taken", "name"),
    [
        ("http://fd00::5:6066", "http://[fd00::5]:6066", "fd00::5"),
        ("http://[fd00::5]:6066", "http://[fd00::5]:6066", "fd00::5"),
        ("http://2001:db8:0:0:0:0:0:5:6066", "http://[2001:db8:0:0:0:0:0:5]:6066", "2001:db8:0:0:0:0:0:5"),
        ("http://2001:db8:0:0:0:0:0:5", "http://[2001:db8:0:0:0:0:0:5]", "2001:db8:0:0:0:0:0:5"),
        ("http://10.0.0.5:6066/", "http://10.0.0.5:6066", "10.0.0.5"),
        ("http://worker-1:6066", "http://worker-1:6066", "worker-1"),
    ],
)
def test_a_workers_url_is_taken_of_either_family(load, given, taken, name):
    """A pod's IPv6 address gets its brackets, and the worker may be asked by it."""
    loaded = load(MILLRACE_WEB_URL=given)
    assert loaded.web_url == taken
    assert loaded.web_names() == {name}


def test_brokers_of_either_family_are_reached(load):
    """An IPv6 address gets the brackets that a port needs; one that has them keeps them."""
    kafka = load(KAFKA_BOOTSTRAP_SERVERS="::1:9092, [::1]:9093,b:9094,10.0.0.1:9095").kafka
    assert places(kafka) == [("::1", 9092), ("::1", 9093), ("b", 9094), ("10.0.0.1", 9095)]
    assert kafka.bootstrap_servers == "[::1]:9092, [::1]:9093,b:9094,10.0.0.1:9095"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("MILLRACE_PROXY", "http://user:first@hunter2@proxy:3128"),
        ("MILLRACE_PROXY", "http://user:hunter2@second@proxy:3128"),
        ("MILLRACE_PROXY", "https://user:hunter2%40x@[fd00::1]:3128"),
    ],
)
def test_a_login_is_masked_whatever_it_holds(load, name, value):
    """Up to the last @ all is login: a password may hold others. The log masks it whole, as written and as sent."""
    loaded = load(**{name: value})
    printed = dict(settings.names(loaded))[name]
    assert "hunter2" not in printed
    assert printed.count("@") == 1
    for secret in (urlsplit(value).password, unquote(urlsplit(value).password)):
        assert secret in set(settings.secret_values(loaded))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("KAFKA_BOOTSTRAP_SERVERS", "user:hunter2@h:9092"),
        ("KAFKA_BOOTSTRAP_SERVERS", "SASL_SSL://user:hunter2@h:9092"),
        ("MILLRACE_CACHE", "memcached://user:hunter2@h:11211"),
        ("MILLRACE_CACHE", "memory:// memcached:user:hunter2@h"),
        ("MILLRACE_CACHE", "redis://user:hun@ter2@h"),
        ("MILLRACE_WEB_URL", "http://user:hunter2@h:6066"),
        ("MILLRACE_STORE", "rocks://user:hunter2@h"),
        ("MILLRACE_WEB_HOSTS", "user:hunter2@h"),
        ("KAFKA_SASL_OAUTHBEARER_TOKEN_ENDPOINT_URL", "https://user:hunter2@h/token"),
        ("MILLRACE_PROXY", "user:hunter2@h"),
        ("MILLRACE_REGISTRY_URL", "https://user:hunter2@h"),
        ("MILLRACE_REGISTRY_URL", "https://r, https://user:hun@ter2@h"),
    ],
)
def test_a_login_where_none_is_taken_is_not_repeated(load, name, value):
    """A URL with a login is refused without telling it."""
    with pytest.raises(SettingsError, match=name) as caught:
        load(**{name: value})
    assert "hunter2" not in str(caught.value)
    assert "ter2" not in str(caught.value)


SECRET_VALUES = {
    "KAFKA_SASL_OAUTHBEARER_CLIENT_SECRET": "hunter5",
    "KAFKA_SASL_PASSWORD": "hunter2",
    "KAFKA_SSL_PASSWORD": "hunter2",
    "MILLRACE_PROXY": "http://user:hunter2@proxy:3128",
    "MILLRACE_REGISTRY_PASSWORD": "hunter2",
    "MILLRACE_REGISTRY_TOKEN": "hunter2",
    "MILLRACE_WEB_TOKEN": "hunter2",
}
WHOLE = {"MILLRACE_REGISTRY_PASSWORD": {"MILLRACE_REGISTRY_USERNAME": "me"}}
"""What a secret needs beside it."""


@pytest.mark.parametrize(("name", "text", "reason"), WRONG)
def test_a_wrong_value_is_told_by_name(load, name, text, reason):
    """Each wrong value is one line that begins with the variable and says what is wrong."""
    with pytest.raises(SettingsError) as caught:
        load(**{name: text})
    (line,) = str(caught.value).splitlines()
    assert line.startswith(f"{name}: ")
    assert reason in line


def test_all_wrong_values_are_told_together(load):
    """One start tells every wrong setting, each on a line of its own."""
    wrong = {name: text for name, text, _ in WRONG}
    with pytest.raises(SettingsError) as caught:
        load(**wrong)
    lines = str(caught.value).splitlines()
    assert sorted(line.partition(":")[0] for line in lines) == sorted(wrong)


def test_a_file_with_a_byte_order_mark_is_refused(load, tmp_path):
    """Some editors and shells write one: it would be the first character of the secret."""
    (tmp_path / "token").write_bytes(b"\xef\xbb\xbfhunter2\r\n")
    with pytest.raises(SettingsError) as caught:
        load(MILLRACE_WEB_TOKEN_FILE=tmp_path / "token")
    path = str(tmp_path / "token")
    assert str(caught.value) == f"MILLRACE_WEB_TOKEN_FILE: {path!r} begins with a byte order mark; save it without"


def test_every_secret_has_a_test():
    """The list of secrets is the one that the tests below go through."""
    assert sorted(SECRET_VALUES) == sorted(each.variable for each in DECLARED if each.secret)


@pytest.mark.parametrize(("name", "value"), SECRET_VALUES.items())
def test_a_secret_may_come_from_a_file(load, tmp_path, name, value):
    """`<NAME>_FILE` names a file that holds the secret."""
    file = tmp_path / "secret"
    file.write_text(value)
    loaded = load(**{f"{name}_FILE": file} | WHOLE.get(name, {}))
    where, _, field = name.partition("_")
    assert getattr(loaded.kafka if where == "KAFKA" else loaded, field.lower()) == value


@pytest.mark.parametrize(("name", "value"), SECRET_VALUES.items())
def test_what_the_log_must_not_tell_is_known(load, name, value):
    """Every secret's value is among those that the log masks; of a proxy it is the password."""
    loaded = load(**{name: value} | WHOLE.get(name, {}))
    [secret] = settings.secret_values(loaded)
    assert secret == (urlsplit(value).password if name == "MILLRACE_PROXY" else value)
    assert list(settings.secret_values(Settings())) == []


def test_a_file_that_is_not_there_is_told_by_name(load, tmp_path):
    """A `_FILE` that cannot be read is a settings error that names the variable."""
    with pytest.raises(SettingsError, match="KAFKA_SASL_PASSWORD_FILE"):
        load(KAFKA_SASL_PASSWORD_FILE=tmp_path / "gone")


def test_a_directory_is_no_secret(load, tmp_path):
    """A `_FILE` that is a directory is a settings error that names the variable."""
    with pytest.raises(SettingsError, match="KAFKA_SSL_PASSWORD_FILE"):
        load(KAFKA_SSL_PASSWORD_FILE=tmp_path)


def test_a_file_of_no_text_is_a_settings_error(load, tmp_path):
    """A `_FILE` whose bytes are no text ends as a settings error like any other wrong value."""
    file = tmp_path / "secret"
    file.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(SettingsError):
        load(KAFKA_SASL_PASSWORD_FILE=file)


def test_every_setting_is_printed_under_its_variable_with_secrets_masked(load):
    """What is printed names all settings with their effective values and shows no secret; a proxy keeps its host."""
    left_out = {"KAFKA_SSL_PASSWORD", "MILLRACE_REGISTRY_TOKEN"}
    given = {name: value for name, value in SECRET_VALUES.items() if name not in left_out}
    loaded = load(KAFKA_SASL_USERNAME="user", MILLRACE_REGISTRY_USERNAME="user", MILLRACE_GROUP="g", **given)
    printed = dict(settings.names(loaded))
    assert printed["KAFKA_SASL_PASSWORD"] == printed["MILLRACE_WEB_TOKEN"] == MASK
    assert printed["KAFKA_SSL_PASSWORD"] is None
    assert "proxy:3128" in printed["MILLRACE_PROXY"]
    assert printed["KAFKA_SASL_USERNAME"] == "user"
    assert printed["MILLRACE_GROUP"] == "g"
    assert "hunter2" not in repr(printed)
    expected = {f"KAFKA_{field.name.upper()}" for field in dataclasses.fields(Kafka)}
    expected |= {f"MILLRACE_{field.name.upper()}" for field in dataclasses.fields(Settings)} - {"MILLRACE_KAFKA"}
    assert set(printed) == expected
    assert set(printed) >= {each.variable for each in DECLARED if each.secret}


def test_the_pool_has_a_process_a_core_unless_set(load):
    """Zero means as many as there are cores to run on."""
    assert load().processes() == len(os.sched_getaffinity(0))
    assert load(MILLRACE_POOL_WORKERS=3).processes() == 3


def test_every_problem_with_a_file_is_told(load, tmp_path):
    """Each `_FILE` that is wrong is named, in one go with each other and with the wrong values."""
    garbled, whole = tmp_path / "garbled", tmp_path / "whole"
    garbled.write_bytes(b"\xff")
    whole.write_text("x")
    with pytest.raises(SettingsError) as caught:
        load(
            KAFKA_SASL_PASSWORD_FILE=tmp_path / "gone",
            KAFKA_SSL_PASSWORD_FILE=garbled,
            KAFKA_SASL_USERNAME_FILE=tmp_path,
            MILLRACE_GROUP_FILE=whole,
            MILLRACE_GROUP="g",
            MILLRACE_TIMEOUT="0",
            MILLRACE_CACHE="nope",
        )
    lines = sorted(str(caught.value).splitlines())
    assert [line.partition(":")[0] for line in lines] == [
        "KAFKA_SASL_PASSWORD_FILE",
        "KAFKA_SASL_USERNAME_FILE",
        "KAFKA_SSL_PASSWORD_FILE",
        "MILLRACE_CACHE",
        "MILLRACE_GROUP_FILE",
        "MILLRACE_TIMEOUT",
    ]
    reasons = "No such file or directory", "Is a directory", "not UTF-8", "nope", "MILLRACE_GROUP is given too", "0"
    assert all(reason in line for reason, line in zip(reasons, lines, strict=True))


@pytest.mark.parametrize("end", ["\n", "\r\n", " \n\n"])
def test_the_line_break_at_the_end_of_a_file_is_no_part_of_the_secret(load, tmp_path, end):
    """Editors and `echo` end a file with a line break, which no password has."""
    file = tmp_path / "secret"
    file.write_text("hunter2" + end)
    assert load(KAFKA_SASL_PASSWORD_FILE=file).kafka.sasl_password == "hunter2"


@pytest.mark.parametrize("name", ["g-redriven", "g-tables-answers-changelog", "g-tables-checks-changelog"])
@pytest.mark.parametrize("topic", ["REQUESTS", "RESULTS", "DEAD_LETTERS", "WORKERS"])
def test_a_topic_of_the_group_s_own_is_refused(load, topic, name):
    """Marks of redriven letters and rows of tables would be read as what the topic is for, and written beside it."""
    variable = f"MILLRACE_{topic}_TOPIC"
    assert load(MILLRACE_GROUP="g2", **{variable: name})
    with pytest.raises(SettingsError, match=f"{variable}: '{name}' is a topic that MILLRACE_GROUP=g keeps for itself"):
        load(MILLRACE_GROUP="g", **{variable: name})


@pytest.mark.parametrize(
    "variables",
    [
        {"MILLRACE_RESULTS_TOPIC": "requests"},
        {"MILLRACE_DEAD_LETTERS_TOPIC": "results"},
        {"MILLRACE_REQUESTS_TOPIC": "dead-letters"},
        {"MILLRACE_REQUESTS_TOPIC": "x", "MILLRACE_RESULTS_TOPIC": "x", "MILLRACE_DEAD_LETTERS_TOPIC": "x"},
    ],
)
def test_a_topic_named_twice_is_refused(load, variables):
    """A worker that reads what it writes would never end: each topic has its own name."""
    with pytest.raises(SettingsError, match="need a topic each"):
        load(**variables)


def test_topics_may_change_their_default_names(load):
    """Names that are defaults of another topic are fine as long as they differ."""
    swapped = load(MILLRACE_REQUESTS_TOPIC="results", MILLRACE_RESULTS_TOPIC="requests")
    assert swapped.topics() == ("results", "requests", "dead-letters")


@pytest.mark.parametrize("port", [1, 65535])
def test_the_ports_at_the_ends_of_the_range_are_taken(load, port):
    """A broker may be at any port that there is."""
    assert load(KAFKA_BOOTSTRAP_SERVERS=f"a:{port}").kafka.bootstrap_servers == f"a:{port}"


def test_an_oauth_login_names_what_is_missing(load):
    """A mechanism whose settings are not all there is refused at the start, by name."""
    login = {"KAFKA_SECURITY_PROTOCOL": "SASL_SSL", "KAFKA_SASL_MECHANISM": "OAUTHBEARER"}
    with pytest.raises(SettingsError, match="KAFKA_SASL_OAUTHBEARER_CLIENT_ID, KAFKA_SASL_OAUTHBEARER_CLIENT_SECRET: "):
        load(**login, KAFKA_SASL_OAUTHBEARER_TOKEN_ENDPOINT_URL="https://h/token")
    with pytest.raises(SettingsError, match="KAFKA_SASL_OAUTHBEARER_TOKEN_ENDPOINT_URL: is not the URL"):
        load(**login, KAFKA_SASL_OAUTHBEARER_TOKEN_ENDPOINT_URL="nonsense")


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"USERNAME": "u"}, "MILLRACE_REGISTRY_PASSWORD"),
        ({"PASSWORD": "p"}, "MILLRACE_REGISTRY_USERNAME"),
        (
            {"USERNAME": "u", "PASSWORD": "p", "TOKEN": "t"},
            "MILLRACE_REGISTRY_TOKEN: MILLRACE_REGISTRY_USERNAME is given",
        ),
        ({"KEY": __file__}, "MILLRACE_REGISTRY_KEY: needs MILLRACE_REGISTRY_CERT"),
    ],
)
def test_access_to_the_registry_that_cannot_work_is_refused(load, given, named):
    """Half a login, two of them, or a key without its certificate."""
    with pytest.raises(SettingsError, match=named):
        load(**{f"MILLRACE_REGISTRY_{name}": value for name, value in given.items()})


@pytest.mark.parametrize("name", ["millrace ", "millrace\r", " millrace\n"])
def test_blanks_around_a_value_are_no_part_of_it(load, name):
    """`--env-file` and files with Windows line ends keep them: a group of that name would answer everything again."""
    assert load(MILLRACE_GROUP=name).group == "millrace"
    assert load(MILLRACE_WEB_TOKEN=f"{name}").web_token == "millrace"


@pytest.mark.parametrize("name", ["team/orders", "my group", "équipe", "g" * 221, ""])
def test_a_group_whose_topics_kafka_would_not_take_is_refused(load, name):
    """Changelogs, marks of redriven letters and delay topics have its name: the setting is named, not a topic."""
    with pytest.raises(SettingsError, match=r"MILLRACE_GROUP: .* is not a group whose topics can have its name"):
        load(MILLRACE_GROUP=name)


def test_files_of_other_programs_are_not_looked_at(load, tmp_path):
    """Images set such variables: what is no setting of ours is neither read nor an error."""
    (tmp_path / "keytab").write_bytes(b"\xff\x00")
    given = {"KAFKA_KEYTAB_FILE": tmp_path / "keytab", "KAFKA_CONF_FILE": "/nope", "MILLRACE_ENV_FILE": tmp_path}
    assert load(**given).group == "millrace"


@pytest.mark.parametrize("name", ["SSL_CAFILE", "SSL_CERTFILE", "SASL_PASSWORD", "SASL_OAUTHBEARER_TOKEN_ENDPOINT_URL"])
def test_an_empty_text_is_none_where_none_is_needed(load, name):
    """Compose makes `${NAME:-}` of what is not set."""
    assert getattr(load(**{f"KAFKA_{name}": ""}).kafka, name.lower()) is None
