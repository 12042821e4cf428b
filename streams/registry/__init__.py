"""Records by a schema registry: Avro, Protobuf and JSON Schema to plain values and back. Needs the extra `registry`,
which is imported when a `Registry` is opened.

registry     `Registry`: decodes and encodes, and keeps the schemas
client       what is fetched from the registry, and what a failure means
framing      where a record says which schema it was written by
avro         values by an Avro schema
avro_schema  an Avro schema made ready: logical types, and what hostile bytes could do with it
avro_types   logical types to text and back
protobuf     values by a Protobuf schema
proto_values   what a Protobuf message's values must be for nothing of them to be lost
proto_scalars  the same for single values
proto_text   .proto text to descriptors
json_schema  values by a JSON Schema
sizes        how large a value is
"""
