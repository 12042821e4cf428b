"""What a worker tells over HTTP, and what it does when told to.

query      every answer as plain dicts: for the routes here and for the pages
selection  which rows of a table are asked for: prefix, conditions, order, page
shelf      the rows that this worker itself holds, selected in slices that leave the loop free
peers      the rows that other workers hold, fetched from them
tables     whole rows, put together of all workers' partial ones
fleet      workers, partitions, sources, caches and hosts, as the workers' records tell them
overview   the figures of the first page
intake     takes a request: judges it, puts it on the topic, waits for its result
letters    the latest dead letters, and chosen ones put back
purge      the purge of this worker's cache
routes     which path answers what
schemas    the JSON of the API
row_schemas  the JSON of the tables' rows
described  the contract's requests and results as JSON Schema
openapi    the API's own document
asyncapi   the topics' own document
"""
