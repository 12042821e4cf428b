#!/usr/bin/env bash
# Packages: lz4 4.4.5, cramjam 2.14.0
# The LZ4 frame format allows several frames one behind the other, and skippable frames anywhere, which hold no content.
# `lz4.frame.decompress` stops behind the first frame of either kind and raises nothing: of two frames it returns the
# first, and behind a leading skippable frame it finds no content at all. `lz4.frame.open` of the same package and cramjam
# return everything. With the one-shot function, only `return_bytes_read=True` shows that something was left.
# Seen:
#                            decompress  open  cramjam
#   two frames                        6    12       12
#   a skippable frame first           0     6        6
#   a skippable frame last            6     6        6
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv --without-pip "$folder/env"
python3 -m pip --python "$folder/env/bin/python" install --quiet --disable-pip-version-check lz4==4.4.5 cramjam==2.14.0
"$folder/env/bin/python" - <<'PYTHON'
import io
import struct

import cramjam
import lz4.frame

FRAME = lz4.frame.compress(b"first ")
OTHER = lz4.frame.compress(b"second")
SKIPPABLE = struct.pack("<II", 0x184D2A50, 4) + b"note"

INPUTS = {
    "two frames": FRAME + OTHER,
    "a skippable frame first": SKIPPABLE + FRAME,
    "a skippable frame last": FRAME + SKIPPABLE,
}


def lengths(data: bytes) -> list[int]:
    whole = lz4.frame.decompress(data), lz4.frame.open(io.BytesIO(data)).read(), bytes(cramjam.lz4.decompress(data))
    return list(map(len, whole))


print(f"{'':23}  decompress  open  cramjam")
seen = {name: lengths(data) for name, data in INPUTS.items()}
for name, (once, opened, crammed) in seen.items():
    print(f"{name:23}  {once:10}  {opened:4}  {crammed:7}")
assert list(seen.values()) == [[6, 12, 12], [0, 6, 6], [6, 6, 6]], "it has changed"
PYTHON
