"""What a worker answers over HTTP, and what it does on request.

routes          which path answers what
query           every answer as plain dicts: for the routes here and for the pages
selection       which rows of a table a query wants: prefix, conditions, order, page
local_rows      the rows that this worker holds, selected in slices that leave the loop free
peers           the rows that other workers hold, fetched from them
tables          whole rows, merged from all workers' partial ones
cluster_status  workers, partitions, sources, caches and hosts, from the workers' records
overview        the numbers of the first page
submission      takes a request: validates it, puts it on the topic, waits for its result
dead_letters    the latest dead letters, and redrive of selected ones
purge           the purge of this worker's cache
schemas         the JSON of the API
row_schemas     the JSON of the tables' rows
specification   the contract's requests and results as JSON Schema
openapi         the API's own document
asyncapi        the topics' own document
"""
