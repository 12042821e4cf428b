"""Workers that do the same work without Millrace.

They take a request, fetch or know its document, publish a result and
await Kafka's acknowledgement before the request counts as done. They validate requests
and write headers as Millrace does, and guard against nothing.

same            validation and headers, for both
stock_faust     a Faust agent with `concurrency`, as its guide has it
by_hand         aiokafka and aiohttp, a semaphore, and commits of the unbroken run
"""
