#!/usr/bin/env bash
# Packages: zstandard 0.25.0, cramjam 2.14.0
# Two Python readers of zstd, given the first half of a frame. `ZstdDecompressor.stream_reader` of zstandard returns what
# there is and then ends as if the frame were whole: whoever does not count the bytes takes a cut body for all of it.
# `zstd.Decompressor` of cramjam looks like a streaming interface, but refuses a part of a frame at the first call, so it
# cannot inflate piece by piece.
# Seen:
#   zstandard: a part of the text and no error
#   cramjam:   OSError: incomplete frame
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet --disable-pip-version-check zstandard==0.25.0 cramjam==2.14.0
"$folder/env/bin/python" - <<'PYTHON'
import io
import random

import cramjam
import zstandard

text = random.Random(1).randbytes(1 << 20)  # does not compress: half of the frame holds about half of it
whole = zstandard.ZstdCompressor().compress(text)
half = whole[: len(whole) // 2]

read = zstandard.ZstdDecompressor().stream_reader(io.BytesIO(half)).read()
print("zstandard:", "a part of the text and no error" if text.startswith(read) and 0 < len(read) < len(text) else len(read))
assert text.startswith(read) and 0 < len(read) < len(text), "zstandard has changed"
try:
    cramjam.zstd.Decompressor().decompress(half)
except OSError as exc:
    print(f"cramjam:   {type(exc).__name__}: {exc}")
else:
    raise SystemExit("cramjam has changed: it took a part of a frame")
PYTHON
