"""Answers requests: requests topic → results topic, and dead letters for failures.

app              the part of a worker that answers: its Faust app and what the agent needs
agent            the agent: takes batches, answers hits, begins or refuses misses
publish          publishes results and dead letters
parsed_requests  requests seen before, validated once and recognised by their bytes
limiter          which requests begin, which wait for their host, and which are refused
line             the requests that wait for one host, and whether it keeps up
enrich           one request → one answer: from the cache, from a fetch in progress, or from the upstream
fetch            fetches from the upstream or calls a function, and loads the document
bulk             requests many keys of a source in one call
pages            fetches an answer that comes in pages
run_checks       runs the checks that have no result yet for a document
cache_writer     what is cached, and for how long
encoded_answer   an answer's bytes without the fields that differ from request to request
retry_later      what failed to a delay topic, instead of the dead letters
headers          the Kafka headers of results and dead letters
stats            answers counted by outcome and cache state, and their durations
tracing          a span for each request
"""
