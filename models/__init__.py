"""What the words mean. Pure: the standard library and marshmallow, so a pool child imports it in milliseconds.

errors      the one error tree; each error knows its outcome and whether a retry helps
strictjson  JSON as the contract reads it: no NaN, no duplicate keys, no bottomless nesting
schema      the schema base: unknown keys refused on the way in, inapplicable ones dropped on the way out
request     what a producer may ask
framing     what stands around a request, or in its place, by its first bytes
source      a named upstream: what a request for it becomes, and how long its answers may be used
source_schema  the form of sources.toml
template    text with named parameters, each escaped for its place
charset     the charsets that are read
page        what an HTML page says of itself: charset and title
documents   what an upstream's body becomes: `json`, `text`, `page` and registered schemas
checks      the CPU checks: what there are, what they may be asked, and running one
large       work on large values that another process does for the worker
child       what a child of the process pool runs
letter      a dead letter: what its headers say, and the request that it becomes again
moment      which timestamps of records are believed
latency     how long things took, as counts by duration
plugins     one plugin, loaded
result      what a consumer reads: an answer, encoded once and spliced per request
"""

DISTRIBUTION = "millrace-kafka"
"""Whose package this is: millrace/installation.py looks for it."""
