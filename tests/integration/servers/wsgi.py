"""The answers as a WSGI application, for gunicorn."""

import time
from http import HTTPStatus

from tests.integration.servers.asgi import answer


def app(environ, start_response):
    """Answer by path."""
    path = environ["PATH_INFO"].strip("/")
    body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
    status, headers, pieces = answer(path, body)
    fields = [(name.decode(), value.decode()) for name, value in headers if name != b"connection"]
    start_response(f"{status} {HTTPStatus(status).phrase}", fields)
    for piece in pieces if environ["REQUEST_METHOD"] != "HEAD" else ():  # gunicorn would send a body all the same
        if path == "slow":
            time.sleep(0.02)
        yield piece
