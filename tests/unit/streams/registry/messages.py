"""Messages of a shop, as protoc would make them: order.proto imports common/address.proto and Google's own files."""

from __future__ import annotations

from google.protobuf import any_pb2, descriptor_pb2, struct_pb2, timestamp_pb2
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass

FIELD = descriptor_pb2.FieldDescriptorProto


def _fields(message, **types):
    for number, (name, kind) in enumerate(types.items(), 1):
        repeated, _, what = kind.rpartition("*")
        field = message.field.add(name=name, number=number, label=FIELD.LABEL_OPTIONAL)
        if repeated or kind.startswith("*"):
            field.label = FIELD.LABEL_REPEATED
        if what.startswith("."):
            field.type, field.type_name = FIELD.TYPE_MESSAGE, what
        else:
            field.type = getattr(FIELD, f"TYPE_{what.upper()}")


ADDRESS = descriptor_pb2.FileDescriptorProto(name="common/address.proto", package="shop", syntax="proto3")
_fields(ADDRESS.message_type.add(name="Address"), postal_code="string")

ORDER = descriptor_pb2.FileDescriptorProto(
    name="order.proto", package="shop", syntax="proto3",
    dependency=["common/address.proto", "google/protobuf/any.proto", "google/protobuf/struct.proto",
                "google/protobuf/timestamp.proto"],
)  # fmt: skip
_order = ORDER.message_type.add(name="Order")
_fields(
    _order, order_id="string", cents="int64", price="double", address=".shop.Address", count="int32",
    placed_at=".google.protobuf.Timestamp", tags="*string", photo="bytes", extra=".google.protobuf.Struct",
    parent=".shop.Order", more=".google.protobuf.Any",
)  # fmt: skip
_fields(_order.nested_type.add(name="Line"), sku="string")
_fields(ORDER.message_type.add(name="Other"), number="int32")

POOL = DescriptorPool()
for _file in (any_pb2, struct_pb2, timestamp_pb2):
    POOL.AddSerializedFile(_file.DESCRIPTOR.serialized_pb)
POOL.Add(ADDRESS)
POOL.Add(ORDER)
Order, Line, Other = (
    GetMessageClass(POOL.FindMessageTypeByName(f"shop.{name}")) for name in ("Order", "Order.Line", "Other")
)


def order():
    """Return an order with something in most fields."""
    made = Order(order_id="o-1", cents=2**60, price=1.5, tags=["a", "b"], photo=b"\x00\x01")
    made.address.postal_code = "123"
    made.placed_at.FromJsonString("2024-02-29T01:02:03Z")
    made.extra.update({"gift": True})
    return made


DECODED = {
    "order_id": "o-1", "cents": str(2**60), "price": 1.5, "address": {"postal_code": "123"}, "count": 0,
    "placed_at": "2024-02-29T01:02:03Z", "tags": ["a", "b"], "photo": "AAE=", "extra": {"gift": True},
}  # fmt: skip
"""That order, decoded."""
