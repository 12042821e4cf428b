#!/usr/bin/env bash
# Package: rocksdict 0.3.29
# `Rdict.close()` does not close the database while an iterator over it is alive: a loop over `items()` that is suspended, as
# in a generator, is enough. `close()` raises nothing, and uses of the closed Rdict raise; but the iterator reads on, and the
# folder stays locked: opening it again fails with "lock hold by current process" until the iterator is gone. The wording
# is close to what another process meets there, "While lock file: …: Resource temporarily unavailable".
# Seen:
#   get on the closed Rdict        raises: DB instance already closed
#   the loop that was suspended    reads on
#   opened again meanwhile         raises: lock hold by current process
#   opened again after the loop    opens
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv --without-pip "$folder/env"
python3 -m pip --python "$folder/env/bin/python" install --quiet --disable-pip-version-check rocksdict==0.3.29
"$folder/env/bin/python" - "$folder/store" <<'PYTHON'
import sys

from rocksdict import Options, Rdict

path = sys.argv[1]


def opened() -> str:
    try:
        store = Rdict(path, Options(raw_mode=True))
    except Exception as exc:  # the package raises no narrower class
        return "raises: " + ("lock hold by current process" if "lock hold by current process" in str(exc) else str(exc))
    store.close()
    return "opens"


store = Rdict(path, Options(raw_mode=True))
for number in range(1000):
    store[b"%04d" % number] = b"x"
rows = (key for key in store.keys())
first = next(rows)
store.close()
try:
    used = str(store.get(first))
except Exception as exc:
    used = "raises: " + str(exc)
following = next(rows, None)
meanwhile = opened()
rows.close()
del rows
after = opened()

print(f"get on the closed Rdict        {used}")
print(f"the loop that was suspended    {'reads on' if following == b'0001' else following}")
print(f"opened again meanwhile         {meanwhile}")
print(f"opened again after the loop    {after}")
assert used.startswith("raises: ") and following == b"0001", "it has changed"
assert (meanwhile, after) == ("raises: lock hold by current process", "opens"), "it has changed"
PYTHON
