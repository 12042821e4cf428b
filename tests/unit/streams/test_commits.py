"""A group's commits, as its coordinator answers: what is there, what is not, and what is an error."""

from __future__ import annotations

import pytest
from aiokafka import TopicPartition, errors
from aiokafka.protocol.commit import OffsetFetchResponse_v1, OffsetFetchResponse_v2, OffsetFetchResponse_v3
from aiokafka.structs import OffsetAndMetadata
from faust.types import TP

from streams.kafka.commits import UnstableOffsets, all_commits, commits
from streams.kafka.txn_offsets import _FetchResponse, stable_commits

PLACES = [TopicPartition("requests", number) for number in range(3)]
HELD = [("requests", [(0, 5, "of 0", 0), (1, -1, "", 0), (2, 0, "", 3)])]
STABLE = [("requests", [(0, 5, 7, "of 0", 0, {}), (1, -1, -1, None, 0, {})], {})]
FORMS = {"v1": lambda topics, _: OffsetFetchResponse_v1(topics),
         "v2": OffsetFetchResponse_v2, "v3": lambda topics, code: OffsetFetchResponse_v3(0, topics, code)}  # fmt: skip


class Coordinator:
    """As much of aiokafka's coordinator, and of its admin client, as is used; it answers the same to each request."""

    group_id = "group"

    def __init__(self, response):
        self.response = response
        self.died = False

    async def ensure_coordinator_known(self):
        return None

    async def _send_req(self, _):
        return type(self.response).decode(self.response.encode())

    def coordinator_dead(self):
        self.died = True

    async def find_coordinator(self, _):
        return 1

    async def _send_request(self, request, _):
        return await self._send_req(request)


@pytest.mark.parametrize("form", FORMS)
async def test_commits_are_those_that_there_are(form):
    """Of every version; one of a partition without a commit, or of a topic that is gone, is none."""
    held = {TP("requests", 0): OffsetAndMetadata(5, "of 0")}
    assert await commits(Coordinator(FORMS[form](HELD, 0)), PLACES) == held
    assert await all_commits(Coordinator(FORMS[form](HELD, 0)), "group") == held


async def test_stable_commits_are_read_alike():
    """By version 7, which has an epoch behind each offset."""
    found = await stable_commits(Coordinator(_FetchResponse(0, STABLE, 0, {})), PLACES[:2])
    assert found == {TP("requests", 0): OffsetAndMetadata(5, "of 0")}


@pytest.mark.parametrize("form", ["v2", "v3"])
@pytest.mark.parametrize("error", [errors.GroupLoadInProgressError, errors.NotCoordinatorForGroupError])
async def test_a_coordinator_that_has_moved_or_is_loading_is_no_group_without_commits(form, error):
    """Kafka says so at the top of its answer, with no topic in it: taken for no commit, all would be answered again."""
    coordinator = Coordinator(FORMS[form]([], error.errno))
    with pytest.raises(error) as caught:
        await commits(coordinator, PLACES)
    assert caught.value.retriable
    assert coordinator.died is (error is errors.NotCoordinatorForGroupError)
    with pytest.raises(error):
        await all_commits(coordinator, "group")


@pytest.mark.parametrize("form", FORMS)
async def test_an_error_of_one_partition_is_one(form):
    """Brokers before version 2 of the request have those of the coordinator there, too."""
    broken = [("requests", [(0, -1, "", errors.NotCoordinatorForGroupError.errno)])]
    with pytest.raises(errors.NotCoordinatorForGroupError):
        await commits(Coordinator(FORMS[form](broken, 0)), PLACES)


async def test_an_open_transaction_is_said_to_be_one():
    """It ends by itself: another try may help."""
    with pytest.raises(UnstableOffsets) as caught:
        await stable_commits(
            Coordinator(_FetchResponse(0, [("requests", [(0, -1, -1, "", 88, {})], {})], 0, {})), PLACES
        )
    assert caught.value.retriable


async def test_an_access_that_is_refused_is_final():
    """The worker ends with the reason."""
    with pytest.raises(errors.GroupAuthorizationFailedError) as caught:
        await commits(Coordinator(OffsetFetchResponse_v3(0, [], errors.GroupAuthorizationFailedError.errno)), PLACES)
    assert not caught.value.retriable
    assert caught.value.args == ("group",)
