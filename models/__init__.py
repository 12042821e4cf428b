"""What the words mean. Pure: the standard library and marshmallow, so that a pool child imports it in milliseconds.

errors         the one error tree; each error knows its outcome and whether a retry helps
strictjson     JSON as the contract reads it: no NaN, no duplicate keys, bounded depth
schema         the schema base: refuses unknown keys on input, drops inapplicable ones on output
request        what a producer may ask
framing        formats that surround or replace a request, recognised by their first bytes
source         a named upstream: what a request for it becomes, and how long its answers may be used
source_schema  the form of sources.toml
template       text with named parameters, each escaped for its place
charset        the charsets that are read
page           what an HTML page says about itself: charset and title
documents      what an upstream's body becomes: `json`, `text`, `page` and registered schemas
checks/        the CPU checks: registry, signatures, and running one
large          work on large values, done in another process
process        what a process of the pool runs
dead_letter    a dead letter: what its headers say, and the request that it becomes again
moment         which timestamps of records are believed
histogram      durations, counted by bucket
plugins        one plugin, loaded
result         what a consumer reads: an answer, encoded once and spliced per request
"""

DISTRIBUTION = "millrace-kafka"
"""Whose package this is: millrace/installation.py looks for it."""
