"""Routes: a team's own topics in, and its own topics out.

app        the Faust app of one route, in a consumer group of its own
topics     which topics its patterns match
runner     the agent: takes batches of records, and holds back what has no place yet
record     what expressions see of a record, and what is published in its place
formats    how records are read, and outputs written
lookups    requests the documents of a record from the sources
picker     what a lookup takes of an answer
large      records whose JSON another process reads
waits      what a record waits for
value      documents as JSON text, parsed where somebody looks inside
outputs    publishes outputs and dead letters
walk       the latest record, walked through for the page and the API
rehearsal  a route without Kafka, for `millrace routes try`
"""
