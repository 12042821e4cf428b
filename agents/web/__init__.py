"""A worker's web site: pages, live events, and the API.

site        puts the parts together, as the worker's role has them
pages       the pages, rendered on the server from templates/
columns     which columns a page shows of each table, and what its address selects
formatting  how values are written
live        /events, one stream a page
sample      the results that a page watches
assets      the files under static/, and Swagger UI (static/swagger-ui: swagger-ui-dist, unmodified)
api/        the HTTP API
"""
