"""Entries of a Delta log made by hand: features that no writer here can make, by the Delta protocol."""

import json
import struct
import time

import pyarrow as pa
from deltalake import write_deltalake

Z85 = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.-:+=^!/*?&<>()[]{}@%$#"
DELETION_VECTOR_MAGIC = 1681511377
ROARING_COOKIE_WITHOUT_RUNS = 12346


def entries(place, version):
    """The actions of a version."""
    return [json.loads(line) for line in (place / "_delta_log" / f"{version:020}.json").read_text().splitlines()]


def commit(place, *actions):
    """Adds a version."""
    version = len(list((place / "_delta_log").glob("*.json")))
    (place / "_delta_log" / f"{version:020}.json").write_text("\n".join(map(json.dumps, actions)))


def protocol(readers, writers):
    """Asks for features of readers and writers; every reader feature is one of writers, too."""
    features = {"readerFeatures": readers, "writerFeatures": sorted({*readers, *writers})}
    return {"protocol": {"minReaderVersion": 3, "minWriterVersion": 7, **features}}


def old_protocol(reader, writer):
    """Asks for versions of readers and writers."""
    return {"protocol": {"minReaderVersion": reader, "minWriterVersion": writer}}


def metadata(place, configuration=None, columns=None):
    """The metadata of version 0 with some configuration, and changes of columns: from a name to the fields' new members."""
    [found] = [action["metaData"] for action in entries(place, 0) if "metaData" in action]
    found["configuration"] |= configuration or {}
    schema = json.loads(found["schemaString"])
    for field in schema["fields"]:
        field |= (columns or {}).get(field["name"], {})
    found["schemaString"] = json.dumps(schema)
    return {"metaData": found}


def with_deletion_vector(place, rows):
    """A table of the numbers 0 to 9 in one file, of which some rows are marked as deleted."""
    write_deltalake(place, pa.table({"id": list(range(10))}))
    [add] = [action["add"] for action in entries(place, 0) if "add" in action]
    commit(place, protocol(["deletionVectors"], []))
    gone = {"path": add["path"], "deletionTimestamp": int(time.time() * 1000), "dataChange": True, "size": add["size"]}
    commit(place, {"remove": gone | {"partitionValues": {}}}, {"add": add | {"deletionVector": _deletion_vector(rows)}})


def _deletion_vector(rows):
    # One container of a 32-bit roaring bitmap, in the one bitmap of a 64-bit one.
    bitmap = struct.pack("<IIHHI", ROARING_COOKIE_WITHOUT_RUNS, 1, 0, len(rows) - 1, 16)
    bitmap += b"".join(struct.pack("<H", row) for row in rows)
    data = struct.pack("<IQI", DELETION_VECTOR_MAGIC, 1, 0) + bitmap
    padded = data + b"\0" * (-len(data) % 4)
    text = "".join(_z85(padded[at : at + 4]) for at in range(0, len(padded), 4))
    return {"storageType": "i", "pathOrInlineDv": text, "sizeInBytes": len(data), "cardinality": len(rows)}


def _z85(four_bytes):
    number, text = int.from_bytes(four_bytes, "big"), ""
    for _ in range(5):
        number, digit = divmod(number, 85)
        text = Z85[digit] + text
    return text
