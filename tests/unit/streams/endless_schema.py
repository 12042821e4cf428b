"""A plugin whose schema never ends."""

from __future__ import annotations

from marshmallow import Schema, post_load

from models.documents import schema


@schema("endless")
class Endless(Schema):
    """Loads for ever."""

    @post_load
    def _wait(self, _data, **_):
        while True:
            pass
