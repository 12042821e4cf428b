"""The worker's own HTTP server.

server      puts the others together and listens
connection  one client's connection: how many, and how long each may keep us waiting
security    who may do what, by which name, and what a browser may do with it
problems    errors as problem details (RFC 9457)
answers     JSON and CSV, with an ETag
bodies      what a client sends
docs        Swagger UI over the API's document, from files of ours (static/swagger-ui: swagger-ui-dist, unmodified)
probes      /livez and /readyz
metrics     /metrics, and how many requests of what kind were answered
pages       the pages, server-rendered from templates/
asked       what a table's page was asked for
columns     what the pages show of each table
upstream    what the pages tell of a host
wording     how figures are written
assets      the files under static/
live        /events, one stream a page
sample      the results that a page watches
encoding    server-sent events as bytes
"""
