"""The answers as an ASGI application, for uvicorn."""

import asyncio
import gzip

TEXT = b"a line of text\n" * 40


async def app(scope, receive, send):
    """Answer by path."""
    if scope["type"] != "http":
        return
    body = b""
    while (message := await receive()).get("type") == "http.request":
        body += message.get("body", b"")
        if not message.get("more_body"):
            break
    path = scope["path"].strip("/")
    status, headers, pieces = answer(path, body)
    await send({"type": "http.response.start", "status": status, "headers": headers})
    for piece in pieces:
        if path == "slow":
            await asyncio.sleep(0.02)
        await send({"type": "http.response.body", "body": piece, "more_body": True})
    await send({"type": "http.response.body", "body": b""})


def answer(path, body):  # noqa: PLR0911  a table
    """Return status, headers and pieces of the body."""
    length = lambda text: [(b"content-length", str(len(text)).encode())]  # noqa: E731
    match path:
        case "chunked" | "slow":
            return 200, [], [TEXT[at : at + 150] for at in range(0, len(TEXT), 150)]
        case "gzip":
            packed = gzip.compress(TEXT)
            return 200, [(b"content-encoding", b"gzip"), *length(packed)], [packed]
        case "none":
            return 204, [], []
        case "close":
            return 200, [(b"connection", b"close"), *length(TEXT)], [TEXT]
        case "unavailable":
            return 503, length(b"later"), [b"later"]
        case "echo":
            return 200, length(body), [body]
        case "cut":
            return 200, [(b"content-length", b"9999")], [TEXT]
    return 200, length(TEXT), [TEXT]
