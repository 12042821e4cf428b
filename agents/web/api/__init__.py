"""The HTTP API: what a worker answers, and what it does on request.

routes         which path answers what
query          every answer as plain dicts: for the routes here and for the pages
tables         whole rows, merged from the partial rows of all workers
local_rows     the rows that this worker holds, selected in slices that leave the loop free
peers          the rows that other workers hold, fetched from them
selection      which rows of a table a query wants: prefix, conditions, order, page
overview       the numbers of the first page
submission     takes a request: validates it, puts it on the topic, waits for its result
dead_letters   the latest dead letters, and redrive of selected ones
letter_filter  which dead letters a query wants
schemas        the JSON of the API
row_schemas    the JSON of the tables' rows
specification  the contract's requests and results as JSON Schema
openapi        the API's own document
asyncapi       the topics' own document
route_topics   the topics of routes in it
"""
