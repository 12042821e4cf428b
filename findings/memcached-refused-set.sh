#!/usr/bin/env bash
# Package: memcached 1.6.18-1+deb12u1 (Debian 12)
# A value that is larger than an item may be is refused with SERVER_ERROR; what becomes of the key's old value depends on the
# command. After `set` the old value is gone, so nobody reads what is out of date; after `replace`, `cas` and `append` it is
# still there. After the meta command `ms` it is gone in every mode, "replace" (MR) included.
# Seen:
#   set       SERVER_ERROR object too large for cache, and the old value is gone
#   replace   SERVER_ERROR object too large for cache, and the old value is there
#   cas       SERVER_ERROR object too large for cache, and the old value is there
#   append    SERVER_ERROR object too large for cache, and the old value is there
#   ms        SERVER_ERROR object too large for cache, and the old value is gone
#   ms MR     SERVER_ERROR object too large for cache, and the old value is gone
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
chmod 755 "$folder"
cd "$folder"
apt-get download -qq memcached=1.6.18-1+deb12u1 libevent-2.1-7 >/dev/null 2>&1
for package in *.deb; do dpkg -x "$package" root; done
export LD_LIBRARY_PATH=$(dirname "$(find "$folder/root" -name 'libevent-2.1.so.7' | head -n 1)")
python3 - "$folder/root/usr/bin/memcached" <<'PYTHON'
import os
import socket
import subprocess
import sys
import time

LARGE = b"x" * (2 << 20)
GONE, THERE = "the old value is gone", "the old value is there"
EXPECTED = {"set": GONE, "replace": THERE, "cas": THERE, "append": THERE, "ms": GONE, "ms MR": GONE}
ERROR = "SERVER_ERROR object too large for cache"

with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    port = free.getsockname()[1]
user = ["-u", "nobody"] if os.getuid() == 0 else []
server = subprocess.Popen([sys.argv[1], "-l", "127.0.0.1", "-p", str(port), "-U", "0", *user])
try:
    for _ in range(50):
        try:
            connection = socket.create_connection(("127.0.0.1", port), timeout=10)
            break
        except ConnectionRefusedError:
            time.sleep(0.1)
    replies = connection.makefile("rb")

    def ask(request: bytes) -> str:
        connection.sendall(request)
        return replies.readline().strip().decode()

    def value() -> str:
        if ask(b"get key\r\n") == "END":
            return GONE
        assert replies.readline() == b"old\r\n"
        assert replies.readline() == b"END\r\n"
        return THERE

    seen = {}
    for command in EXPECTED:
        assert ask(b"set key 0 0 3\r\nold\r\n") == "STORED"
        unique = ask(b"gets key\r\n").split()[4]
        replies.readline(), replies.readline()
        if command.startswith("ms"):
            head = f"ms key {len(LARGE)} {command[3:]}".rstrip()
        else:
            head = f"{command} key 0 0 {len(LARGE)} {unique if command == 'cas' else ''}".rstrip()
        reply = ask(head.encode() + b"\r\n" + LARGE + b"\r\n")
        seen[command] = value()
        print(f"{command:<9} {reply}, and {seen[command]}")
        assert reply == ERROR
    assert seen == EXPECTED
finally:
    server.terminate()
    server.wait()
PYTHON
