"""HTTP as a client.

client       one session for the process: fetches with a cap on decoded bytes, follows redirects
policy       the policy of an upstream: its source's, or the worker's; TLS of a source
request      the request sent to one address, and the next after a redirect
url          URLs sent byte for byte where legal, and the one spelling of a host
exchange     one request and its response over the pool's connections, without aiohttp's session
session      aiohttp's session without its automatic behaviour: for proxies, and for an aiohttp that has changed
fit          which of the two, by the installed aiohttp
protocol     a connection as aiohttp reads it, to the end of the response
connector    aiohttp's pool of connections, bounded
once         no closed connections, and each request sent once
auth         a source's credentials, added at the last moment
secret_scan  whether a text contains a secret
guard        what may be reached: the SSRF guard
embedded     IPv4 addresses inside IPv6 ones
resolver     names, resolved in threads
limits       limits of one host: requests in flight and per second, pauses
bucket       a token bucket: requests per second
turn         requests whose time begins with their turn
breaker      the circuit breaker
outage       logs hosts that fail
retry        whether and when a failed fetch is retried
content      content codings, decoded within bounds (RFC 9110, section 8.4)
bodies       memory for the bodies of responses
cookies      cookies, for as long as one request's redirects
excerpt      the beginning of an error's body, and chosen headers
response     a complete response
errors       failures of aiohttp translated into errors of ours
stats        requests to upstreams, counted
tracing      spans of requests to upstreams

Private parts of aiohttp 3.14 that the service overrides or relies on; `tests/unit/test_faust_pins.py` fails when one
of them changes:

  ResponseHandler  `data_received`, `feed_data`, `set_response_params`, `set_exception`, `connection_lost`, `_payload`,
                   `_parser` (which reads several responses, one after the other), `_skip_payload`, `read_timeout`,
                   `_upgraded`, `start_timeout`, `resume_reading`, `resume_writing`, `read` (in
                   protocol.py and exchange.py); made by hand in agents/testing/wire.py
  Connector        `_get`, `_release`, `_factory`, `_loop` (in connector.py), `connect`, `_get` (in once.py),
                   `_create_connection` (in agents/testing/wire.py); what `_create_direct_connection` reads of a
                   request, ConnectionKey, Connection, `_serialize_headers` (in exchange.py; fit.py looks for them at
                   the start)
  ClientRequest    its fields and writing, and when ClientResponse releases its connection (repeated in exchange.py)
  ClientSession    what `_request` sends again by itself (in once.py)
  CookieJar        `_build_morsel` (in cookies.py)
  RequestHandler   `connection_made`, `finish_response`, `handle_error`, `_manager`, `_waiter`, `_force_close`; Server
                   `__call__`, `_loop`, `_kwargs`; AppRunner `_make_server` (in streams/web/connection.py)
"""
