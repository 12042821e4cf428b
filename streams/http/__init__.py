"""HTTP as a client.

client       one session for the process: fetches with a cap on decoded bytes, follows redirects
policy       how an upstream is asked: its source's policy, or the worker's
request      what is sent to one address, and where a redirect leads
url          URLs sent byte for byte where legal, and the one spelling of a host
session      aiohttp's session, with nothing that it does by itself
connector    aiohttp's pool of connections, bounded
once         connections that have not ended, and each request sent once
auth         a source's credentials, added at the last moment
secret_scan  whether a text contains a secret
tls          how connections to a source are secured
guard        what may be reached: the SSRF guard
embedded     IPv4 addresses inside IPv6 ones
resolver     names, resolved in threads
limits       what one host may cost: requests in flight and a second, pauses
breaker      the circuit breaker
outage       the log of hosts that fail
retry        what is tried again, and when
content      content codings, undone within bounds (RFC 9110, section 8.4)
bodies       memory for the bodies of answers
cookies      cookies, for as long as one request's redirects
excerpt      what an upstream says in place of a document: the beginning of a body, chosen headers
response     a complete answer of an upstream
errors       what went wrong, as one of our errors
stats        requests to upstreams, counted
tracing      spans of requests to upstreams
"""
