"""Workers that do the same work without Millrace.

They take a request, fetch or know its document, publish a result and
await Kafka's acknowledgement before the request counts as done. They validate requests
and write headers as Millrace does, and guard against nothing.

same            validation, headers, checks and results, for those in Python
by_hand         aiokafka and aiohttp, a semaphore, and commits of the unbroken run
by_hand_route   the same for a record of a route
stock_faust     a Faust agent with `concurrency`, as its guide has it
with_faststream FastStream's batch subscriber
with_quix       a streaming dataframe of Quix Streams, one request at a time
go              franz-go and net/http

`python -m bench.peers` (make bench-peers) builds and measures them all; bench/README.md has one run.
"""
