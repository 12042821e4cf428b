#!/usr/bin/env bash
# Packages: aiokafka 0.14.0
# From OffsetFetch 2 on (KIP-88), a broker names what fails for a whole group at the top of its answer, and leaves the
# list of topics empty: COORDINATOR_LOAD_IN_PROGRESS (14) or NOT_COORDINATOR (16), as while __consumer_offsets moves.
# aiokafka asks by version 3 and looks at the topics alone: `fetch_committed_offsets` of its group's coordinator, which a
# consumer begins by, and the admin client's `list_consumer_group_offsets` return {}, as for a group that has committed
# nothing. A consumer that trusts that begins at `auto_offset_reset`. By version 1, the codes are with the partitions,
# and are raised.
# Seen:
#   version 3, code 14: consumer {}, admin {}
#   version 3, code 16: consumer {}, admin {}
#   version 1, code 16: consumer NotCoordinatorForGroupError
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv --without-pip "$folder/env"
python3 -m pip --python "$folder/env/bin/python" install --quiet --disable-pip-version-check aiokafka==0.14.0
"$folder/env/bin/python" - <<'PYTHON'
import asyncio

from aiokafka import TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.consumer.group_coordinator import GroupCoordinator
from aiokafka.errors import KafkaError
from aiokafka.protocol.commit import OffsetFetchResponse_v1, OffsetFetchResponse_v3


class Answered:
    """A coordinator and an admin client between whose methods and the wire one answer stands."""

    group_id = "group"

    def __init__(self, response) -> None:
        self._bytes, self._form = response.encode(), type(response)

    async def ensure_coordinator_known(self) -> None: ...

    def coordinator_dead(self) -> None: ...

    async def find_coordinator(self, group: str) -> int:
        return 1

    async def _send_req(self, request):
        return self._form.decode(self._bytes)

    async def _send_request(self, request, node):
        return self._form.decode(self._bytes)

    _do_fetch_commit_offsets = GroupCoordinator._do_fetch_commit_offsets


async def consumer(response) -> str:
    try:
        return str(await Answered(response)._do_fetch_commit_offsets([TopicPartition("topic", 0)]))
    except KafkaError as exc:
        return type(exc).__name__


async def admin(response) -> str:
    return str(await AIOKafkaAdminClient.list_consumer_group_offsets(Answered(response), "group"))


seen = []
for code in (14, 16):
    response = OffsetFetchResponse_v3(0, [], code)
    seen.append(f"version 3, code {code}: consumer {asyncio.run(consumer(response))}, admin {asyncio.run(admin(response))}")
broken = OffsetFetchResponse_v1([("topic", [(0, -1, "", 16)])])
seen.append(f"version 1, code 16: consumer {asyncio.run(consumer(broken))}")
print(*seen, sep="\n")
assert seen == [
    "version 3, code 14: consumer {}, admin {}",
    "version 3, code 16: consumer {}, admin {}",
    "version 1, code 16: consumer NotCoordinatorForGroupError",
], "it has changed"
PYTHON
