"""How bytes move. Knows no business rule; imports `models` and nothing of `agents`.

settings   the one home of every setting, read once from the environment
values     what the text of a setting may be
reference  the reference of the settings, made of them
files      how many files may be open, and who may have how many
networks   networks and ports as an operator writes them
tiers      cache tiers as an operator writes them
plugins    the operator's own code: found, loaded, told
sources    sources.toml, read with every problem told by its line
toml_lines where in a TOML text each key stands
secrets    the secrets that sources name
tls        connections secured by files that may be replaced
shares     room that many share, of which none can take all
tasks      how a task is ended
functions  sources that are a plugin's functions, called in threads
app        the Faust app: opens and closes what the agents need, in order
kafka/     transport, lease, publisher, topics, and a broker for demo and tests
http/      the client that fetches
cache/     where answers are kept, behind one front
pool/      the processes that run checks
tables/    what the results add up to, backed by changelogs
web/       the worker's HTTP server
"""

DISTRIBUTION = "millrace-kafka"
"""Whose package this is: millrace/installation.py looks for it."""
