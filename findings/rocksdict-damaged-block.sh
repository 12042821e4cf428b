#!/usr/bin/env bash
# Package: rocksdict 0.3.29
# RocksDB ends an iteration at a block whose checksum does not fit, and keeps the reason in the iterator's status.
# rocksdict's `items()` and `keys()` never look at that status: the loop ends as if there were no more keys. `get` of a key
# in that block raises, and so does `status()` of the low-level `iter()`. So a scan of a damaged store is short without a
# word. A key written behind all others tells: a loop that ends before it has ended early.
# Seen, with 64 of 1,300,000 bytes of the one file overwritten:
#   keys written                 20000
#   items() from the front        < 20000, nothing raised
#   keys() from the back          < 20000, nothing raised
#   get of each key               some raise: Corruption: block checksum mismatch
#   iter().status() at its end    raises: Corruption: block checksum mismatch
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv --without-pip "$folder/env"
python3 -m pip --python "$folder/env/bin/python" install --quiet --disable-pip-version-check rocksdict==0.3.29
"$folder/env/bin/python" - "$folder/store" <<'PYTHON'
import os
import sys
from pathlib import Path

from rocksdict import Options, Rdict

KEYS = [b"%06d" % number for number in range(20_000)]
path = Path(sys.argv[1])
store = Rdict(str(path), Options(raw_mode=True))
for key in KEYS:
    store[key] = os.urandom(50)
store.flush()
store.close()

[file] = path.glob("*.sst")
held = bytearray(file.read_bytes())
middle = len(held) // 2
held[middle : middle + 64] = bytes(64)
file.write_bytes(held)

store = Rdict(str(path), Options(raw_mode=True))
forward = sum(1 for _ in store.items())
backward = sum(1 for _ in store.keys(backwards=True))
raised = set()
for key in KEYS:
    try:
        store[key]
    except Exception as exc:  # the package raises no narrower class
        raised.add(str(exc).split(":")[0] + ":" + str(exc).split(":")[1])
walk = store.iter()
walk.seek_to_first()
while walk.valid():
    walk.next()
try:
    walk.status()
    status = "nothing"
except Exception as exc:
    status = str(exc).split(":")[0] + ":" + str(exc).split(":")[1]

print(f"keys written                {len(KEYS):6}")
print(f"items() from the front      {forward:6}, nothing raised")
print(f"keys() from the back        {backward:6}, nothing raised")
print(f"get of each key               some raise: {', '.join(raised)}")
print(f"iter().status() at its end    raises: {status}")
assert 0 < forward < len(KEYS) and 0 < backward < len(KEYS), "it has changed: an iteration sees all, or raises"
assert all(text.startswith("Corruption") for text in (*raised, status)) and raised, "it has changed"
PYTHON
