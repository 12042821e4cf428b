#!/usr/bin/env bash
# Packages: uvloop 0.23.0, trustme 1.2.1
# Both asyncio (CPython 3.11) and uvloop ask the SSLContext that they are given for nothing but `wrap_bio`, once a
# connection. A subclass whose `wrap_bio` hands the call to another context therefore decides anew for each connection
# which certificates count: files that are replaced on disk are in use at once, without opening the client again.
# Seen:
#   asyncio: the first authority is trusted, then only the second
#   uvloop: the first authority is trusted, then only the second
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet --disable-pip-version-check uvloop==0.23.0 trustme==1.2.1
"$folder/env/bin/python" - <<'PYTHON'
import asyncio
import ssl

import trustme
import uvloop


class Delegating(ssl.SSLContext):
    """Hands each connection to the context of now."""

    now: ssl.SSLContext

    def wrap_bio(self, *args, **options):
        return self.now.wrap_bio(*args, **options)


async def main() -> str:
    first, second = trustme.CA(), trustme.CA()

    def trusting(authority: trustme.CA) -> ssl.SSLContext:
        context = ssl.create_default_context()
        authority.configure_trust(context)
        return context

    served = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    first.issue_cert("localhost").configure_cert(served)
    server = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0, ssl=served)
    port = server.sockets[0].getsockname()[1]
    context = Delegating(ssl.PROTOCOL_TLS_CLIENT)

    async def connects() -> bool:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname="localhost")
        except ssl.SSLCertVerificationError:
            return False
        writer.close()
        return True

    context.now = trusting(first)
    before = await connects()
    context.now = trusting(second)
    after = await connects()
    server.close()
    return "the first authority is trusted, then only the second" if (before, after) == (True, False) else "changed"


for name, runner in (("asyncio", asyncio.run), ("uvloop", uvloop.run)):
    found = runner(main())
    print(f"{name}: {found}")
    assert found != "changed", "it has changed"
PYTHON
