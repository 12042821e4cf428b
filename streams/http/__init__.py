"""HTTP as a client.

terms     on which terms an upstream is asked: its source's, or the worker's
auth      a source's credentials, put on at the last moment
telling   whether a text tells a secret
tls       how connections to a source are secured
guard     what may be reached: the SSRF guard
embedded  IPv4 addresses inside IPv6 ones
connector aiohttp's pool of connections, within bounds
once      its connections as they are used: none that has ended, and each request sent once
resolver  names, looked up in threads
retry     what is tried again, and when
traced    spans of requests to upstreams
tally     what was asked of upstreams, and how they did
bodies    room for the bodies of answers
limits    what one host may cost and suffer: places, requests a second, pauses
breaker   the circuit breaker
outage    the log of hosts that fail
hop       what is sent to one address, and where a redirect leads
session   aiohttp's session, with nothing that it does by itself
cookies   what answers set, for as long as one request's redirects
excerpt   what an upstream says in place of a document: the beginning of a body, chosen headers
response  a whole answer of an upstream
failures  what went wrong, in our words
client    one session for the process: fetches with a cap on decoded bytes, follows redirects
"""
