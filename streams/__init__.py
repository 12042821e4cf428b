"""How bytes move. Knows no business rule; imports `models` and nothing of `agents`.

config/    settings, secrets, cache URLs, plugins
app        the Faust app: opens and closes what the agents need, in order
deadlines  time-outs that cost little: one timer for all of the same length
ticks      timers that end together
tasks      background tasks: one way to start them, which notices their end
functions  sources that are a plugin's functions, called in threads or on the event loop
coroutine_calls  runs async functions, and notices those that block
sources    sources.toml, read with every problem reported by its line
memory     what the garbage collector looks at, and what the system gets back
files      how many files may be open, and how they are shared out
tls        connections secured by files that may be replaced
log_pause  lines of the log that are written once a minute
lending    what one app opens and others use
shares     a capacity that many share and none can exhaust
oauth      what OAuth logins to upstreams and to Kafka have in common
kafka/     transport, lease, publisher, topics
http/      the client that fetches
cache/     where answers are kept
registry/  records by a schema registry: Avro, Protobuf, JSON Schema
pool/      the processes that run checks
tables/    rows by partition, backed by changelogs
web/       the worker's HTTP server
telemetry/ logs, metrics, traces, watchdog
"""

DISTRIBUTION = "millrace-kafka"
"""Whose package this is: millrace/installation.py looks for it."""
