#!/usr/bin/env bash
# Packages: yarl 1.25.1
# A URL that ends in an empty query loses its `?`, also where the caller promises that nothing is to be changed
# (`encoded=True`): `/p?` and `/p` are two addresses (RFC 3986, section 6.2.3), and an upstream may answer them differently.
# `URL.build` with the question mark inside the path keeps it.
# Seen:
#   URL(encoded=True): http://h/p
#   URL.build:         http://h/p?
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet --disable-pip-version-check yarl==1.25.1
"$folder/env/bin/python" - <<'PYTHON'
from yarl import URL

whole = str(URL("http://h/p?", encoded=True))
built = str(URL.build(scheme="http", authority="h", path="/p?", encoded=True))
print("URL(encoded=True):", whole)
print("URL.build:        ", built)
assert (whole, built) == ("http://h/p", "http://h/p?"), "it has changed"
PYTHON
