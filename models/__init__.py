"""The data model. It needs only the standard library and marshmallow (and JMESPath where an expression is more than a
path), so that a pool child imports it in milliseconds.

errors         the error tree; each error has its outcome, and whether a retry may help
strictjson     strict JSON: no NaN, no duplicate keys, bounded depth
schema         the schema base: refuses unknown keys on input, leaves out None on output
request        a request, and its validation
url            what a URL of a request may be
headers        what the method and the headers of a request may be
cloudevent     a CloudEvent in structured mode, whose data is a request
framing        formats that surround or replace a request, recognised by their first bytes
source         a named upstream: how its requests are built, and how long its answers are fresh
source_schema  the form of sources.toml
source_fields  its fields: what a value may be, and what is made of it
batch          many keys in one call of a source, and its answer taken apart
pages          the pages of an answer
retry_later    later tries: their delays, topics and headers
route          a route and its lookups, in the order in which they can begin
route_schema   the form of a route in sources.toml
route_check    whether routes fit their sources, one another and the settings
expression     JMESPath over a record, and places in it
jmes           its functions and comparisons
template       text with named parameters, each escaped for its context
raised         what a source's function raises to say what happened
kept           a bounded dictionary in two generations
text           the charset of a text, and the title of an HTML page
labels         labels of charsets on the web, and their codecs
markup         the tags of an HTML page that a parser sees
documents      loads an upstream's body by a schema: `json`, `text`, `page` or a registered one
checks/        the CPU checks: registry, signatures, and running one
large          work on large values, done in a process of the pool
large_records  such work on records of routes
process        the main program of a process of the pool
dead_letter    a dead letter: its headers, filters, and the request that redriving makes of it
moment         credible timestamps of records
histogram      durations by bucket
plugins        loads a plugin
result         a result: an answer encoded once, and spliced per request; the order of its members
result_schema  the form of a result, for its readers
"""

DISTRIBUTION = "millrace-kafka"
"""The distribution of this package; millrace/installation.py checks it."""
