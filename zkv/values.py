"""Keys and values: what may be stored, and how it looks on the wire.

A value comes back as the type it was put. Bytes, str, int (64 bits), float and bool are themselves in
MessagePack, so they travel as they are and cost one look at their types per column. Everything else
is an extension type, opaque to the nodes:

    code 1   any other MessagePack value (None, list, dict, tuple, nested as you like), packed
    code 2   a numpy array or scalar: a length n of one byte; [dtype.str, shape or nil] packed, of n bytes;
             the elements in C order. They stand there unpacked, so that they are copied once on their way in and out
    code 3   within code 1 only, empty: as the first item of an array, "this was a tuple"

A nil in a column of values means "missing"; therefore a stored None is `ExtType(1, b"\\xc0")`. Nothing is
ever pickled: a value that is none of these is refused with `UsageError`, before anything is sent.

Types are compared exactly. An OrderedDict or a str subclass would come back as something else, so it is
refused too, and the error names the type.

That is the codec `TYPED`. `RAW` is for callers who bring an encoding of their own: whatever has bytes travels as
bytes and comes back as bytes. On the wire these are the bytes that `TYPED` makes and reads.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, NamedTuple, TypeAlias

import msgpack
from msgpack import ExtType

from zkv.errors import ProtocolError, UsageError, WrongType, ZkvError

__all__ = [
    "RAW",
    "TYPED",
    "Codec",
    "Wire",
    "check_keys",
    "decode",
    "decode_column",
    "decode_raw",
    "decode_raw_column",
    "encode",
    "encode_column",
    "encode_raw",
    "encode_raw_column",
]

Wire: TypeAlias = bytes | str | int | float | bool | ExtType
"""What one value is in a column of values."""

CODE_PACKED: Final = 1
CODE_ARRAY: Final = 2
CODE_TUPLE: Final = 3

VALUE_LIMIT_BYTES: Final = 16 * 2**20
KEY_LIMIT_BYTES: Final = 4096
DEPTH_LIMIT: Final = 64
"""Levels of nested lists, tuples and dicts in one value."""

_PLAIN: Final = frozenset({bytes, str, int, float, bool})
_PLAIN_OR_NIL: Final = _PLAIN | {type(None)}
_CONTAINERS: Final = frozenset({list, tuple, dict})
_INT_LOW: Final = -(2**63)
_INT_HIGH: Final = 2**64 - 1
_TUPLE: Final = ExtType(CODE_TUPLE, b"")
_ARRAY_KINDS: Final = frozenset("biufcSUmM")
_SCALAR_KINDS: Final = frozenset("biufcmM")


# --- keys ---------------------------------------------------------------------------------------------------------


def check_keys(keys: Sequence[Any], limit_bytes: int = KEY_LIMIT_BYTES) -> None:
    """Raise UsageError unless each key is a str or bytes of at most `limit_bytes`, encoded as UTF-8.

    A str and a bytes key are distinct, as in a dict, even where their bytes are the same. Empty keys are
    keys.
    """
    if not keys:
        return
    kinds = set(map(type, keys))
    # For the common columns each check is one loop in C.
    if kinds == {str}:
        if all(map(str.isascii, keys)) and max(map(len, keys)) <= limit_bytes:
            return
    elif kinds == {bytes} and max(map(len, keys)) <= limit_bytes:
        return
    for key in keys:
        if type(key) is str:
            length = _utf8_length(key, "key")
        elif type(key) is bytes:
            length = len(key)
        else:
            raise UsageError(f"a key must be str or bytes, not {_name(key)}: {_short(key)}")
        if length > limit_bytes:
            raise UsageError(f"the key {_short(key)} has {length} bytes, the limit is {limit_bytes}")


# --- values: out --------------------------------------------------------------------------------------------------


def encode(value: Any, limit_bytes: int = VALUE_LIMIT_BYTES) -> Wire:
    """What `value` is on the wire. Raises UsageError for an unsupported type or more than `limit_bytes`."""
    kind = type(value)
    if kind is bytes:
        return _within(value, len(value), limit_bytes)
    if kind is str:
        # A character takes at most 4 bytes: most strings need no encoding to know that they fit.
        if not value.isascii() or len(value) > limit_bytes:
            _within(value, _utf8_length(value, "value"), limit_bytes)
        return value
    if kind is int:
        if not _INT_LOW <= value <= _INT_HIGH:
            raise UsageError(f"an integer must fit 64 bits: {_short(value)}")
        return value
    if kind is float or kind is bool:
        return value
    if kind in _CONTAINERS or value is None:
        packed = _pack(value)
        return _within(ExtType(CODE_PACKED, packed), len(packed), limit_bytes)
    extension = _array_to_wire(value)
    return _within(extension, len(extension.data), limit_bytes)


def encode_column(values: Sequence[Any], limit_bytes: int = VALUE_LIMIT_BYTES) -> list[Wire]:
    """`encode` for each of `values`; a plain column is returned as it is, after a few loops in C."""
    kinds = set(map(type, values))
    if kinds <= _PLAIN and _plain_column_fits(values, kinds, limit_bytes):
        return values if type(values) is list else list(values)
    return [encode(value, limit_bytes) for value in values]


def _plain_column_fits(values: Sequence[Any], kinds: set[type], limit_bytes: int) -> bool:
    """Whether a column of plain values is certain to be fine; False means: look at each."""
    if kinds == {bytes}:
        return max(map(len, values)) <= limit_bytes
    if kinds == {str}:
        return all(map(str.isascii, values)) and max(map(len, values)) <= limit_bytes
    if kinds <= {int, bool}:
        return not values or (min(values) >= _INT_LOW and max(values) <= _INT_HIGH)
    return kinds <= {float, bool}


def _within(wire: Any, length: int, limit_bytes: int) -> Any:
    if length > limit_bytes:
        raise UsageError(f"the value has {length} bytes, the limit is {limit_bytes}")
    return wire


def _pack(value: Any) -> bytes:
    _check_nested(value)
    try:
        return bytes(msgpack.packb(value, default=_pack_default, strict_types=True, use_bin_type=True))
    except UsageError:  # from _pack_default; a ValueError too
        raise
    except UnicodeEncodeError as error:
        raise UsageError(f"a string inside the value is not valid Unicode: {_short(error.object)}") from None
    except ValueError as error:  # more than 4 GiB in one piece
        raise UsageError(f"the value is too large: {error}") from None


def _pack_default(value: Any) -> Any:
    # strict_types sends everything here that is not exactly a native type.
    if type(value) is tuple:
        return [_TUPLE, *value]
    if type(value) is int:
        raise UsageError(f"an integer must fit 64 bits: {_short(value)}")
    return _array_to_wire(value)


def _check_nested(value: Any) -> None:
    """Raise UsageError where the packer would take something that comes back as another type, or never end.

    Level by level, each container once: cycles end at the depth limit instead of growing without end.
    """
    level: dict[int, Any] = {id(value): value}
    for _ in range(DEPTH_LIMIT):
        below: dict[int, Any] = {}
        for container in level.values():
            items: Iterable[Any]
            for items in (container, container.values()) if type(container) is dict else (container or (),):
                if set(map(type, items)) <= _PLAIN_OR_NIL:
                    continue
                for item in items:
                    kind = type(item)
                    if kind in _CONTAINERS:
                        below[id(item)] = item
                    elif kind not in _PLAIN_OR_NIL and not _is_numpy(item):
                        raise _unsupported(item)
        if not below:
            return
        level = below
    raise UsageError(f"the value is nested deeper than {DEPTH_LIMIT} levels, or contains itself")


def _utf8_length(text: str, what: str) -> int:
    try:
        return len(text.encode())
    except UnicodeEncodeError:
        raise UsageError(f"the {what} {_short(text)} is not valid Unicode (a lone surrogate): use bytes") from None


# --- values: in ---------------------------------------------------------------------------------------------------


def decode(wire: Any, default: Any = None) -> Any:
    """The value that `wire` stands for; `default` for nil, which means "missing".

    Raises ProtocolError for what `encode` never makes.
    """
    kind = type(wire)
    if kind in _PLAIN:
        return wire
    if wire is None:
        return default
    if kind is ExtType:
        if wire.code == CODE_PACKED:
            return _unpack(wire.data)
        if wire.code == CODE_ARRAY:
            return _array_from_wire(wire.data)
        raise ProtocolError(f"a value has the unknown type tag {wire.code}: was it written by a newer client?")
    raise ProtocolError(f"a value arrived as {_name(wire)}, which no client sends")


def decode_column(wires: Sequence[Any], default: Any = None) -> list[Any]:
    """`decode` for each; a column of plain values is returned as it is."""
    kinds = set(map(type, wires))
    if kinds <= (_PLAIN_OR_NIL if default is None else _PLAIN):
        return wires if type(wires) is list else list(wires)
    return [decode(wire, default) for wire in wires]


def _unpack(packed: bytes) -> Any:
    try:
        # unpackb limits each length to that of the input, and nesting to the fixed stack of its own.
        return msgpack.unpackb(packed, ext_hook=_unpack_extension, list_hook=_unpack_list, strict_map_key=False)
    except ZkvError:
        raise
    except Exception as error:  # noqa: BLE001 - the unpacker has a dozen of them, of no one family
        raise ProtocolError(f"a value cannot be decoded: {type(error).__name__}: {error}") from None


def _unpack_extension(code: int, data: bytes) -> Any:
    if code == CODE_TUPLE:
        return _TUPLE
    if code == CODE_ARRAY:
        return _array_from_wire(data)
    raise ProtocolError(f"a value contains the unknown type tag {code}: was it written by a newer client?")


def _unpack_list(items: list[Any]) -> Any:
    return tuple(items[1:]) if items and items[0] is _TUPLE else items


# --- numpy, imported only when met --------------------------------------------------------------------------------


def _is_numpy(value: Any) -> bool:
    numpy = sys.modules.get("numpy")  # whoever has an array has imported it
    return numpy is not None and (type(value) is numpy.ndarray or isinstance(value, numpy.generic))


def _array_to_wire(value: Any) -> ExtType:
    if not _is_numpy(value):
        raise _unsupported(value)
    dtype = value.dtype
    scalar = type(value) is not sys.modules["numpy"].ndarray
    # Objects would need pickling. The layout of structured types does not survive dtype.str, long doubles are
    # not the same bytes on every machine, and numpy's own strings lose the zeros at their end.
    kinds = _SCALAR_KINDS if scalar else _ARRAY_KINDS
    if dtype.kind not in kinds or dtype.itemsize == 0 or dtype.char in "gG":
        raise UsageError(f"a {_name(value)} of dtype {dtype} cannot be stored: convert it to plain numbers or bytes")
    head = msgpack.packb([dtype.str, None if scalar else value.shape])
    # join() reads an array's memory, and ravel() copies only what does not lie there in C order.
    return ExtType(CODE_ARRAY, b"".join((bytes((len(head),)), head, value.ravel())))


def _array_from_wire(packed: bytes) -> Any:
    try:
        import numpy
    except ImportError:
        raise ZkvError("the value is a numpy array, and numpy is not installed here: pip install numpy") from None
    try:
        start = 1 + packed[0]
        name, shape = msgpack.unpackb(packed[1:start])
        dtype = numpy.dtype(name)
        kinds = _SCALAR_KINDS if shape is None else _ARRAY_KINDS
        if type(name) is not str or dtype.kind not in kinds or dtype.itemsize == 0:
            raise ValueError(f"dtype {name!r}")
        array = numpy.ndarray(() if shape is None else tuple(shape), dtype, packed, start)
        size = len(packed) - start
        if array.nbytes != size or min(shape or (), default=0) < 0:  # numpy takes -1 for "as many as fit"
            raise ValueError(f"{size} bytes for {array.nbytes}")
    except Exception as error:  # noqa: BLE001 - numpy's own as well as the unpacker's
        raise ProtocolError(f"a numpy array cannot be decoded: {type(error).__name__}: {error}") from None
    # A copy, because an array over bytes is read-only.
    return array[()] if shape is None else array.copy()


# --- raw ----------------------------------------------------------------------------------------------------------


def encode_raw(value: Any, limit_bytes: int = VALUE_LIMIT_BYTES) -> bytes:
    """The bytes of `value`: bytes, bytearray, memoryview, or whatever has a C-contiguous buffer.

    They are copied, unless they are bytes already: a write that is tried again must be the same write, whatever
    becomes of a buffer by then. Raises UsageError.
    """
    if type(value) is bytes:
        _within(value, len(value), limit_bytes)
        return value
    try:
        view = memoryview(value)
    except (TypeError, ValueError, BufferError) as error:
        raise _not_raw(value, str(error)) from None
    with view:
        if not view.c_contiguous:
            raise _not_raw(value, "its bytes are not C-contiguous, copy it")
        if "O" in view.format:
            raise _not_raw(value, "it holds references to objects")
        _within(value, view.nbytes, limit_bytes)
        return bytes(view)


def encode_raw_column(values: Sequence[Any], limit_bytes: int = VALUE_LIMIT_BYTES) -> list[bytes]:
    """`encode_raw` for each of `values`; a column of bytes is returned as it is."""
    if set(map(type, values)) == {bytes} and max(map(len, values)) <= limit_bytes:
        return values if type(values) is list else list(values)
    return [encode_raw(value, limit_bytes) for value in values]


def decode_raw(wire: Any, default: Any = None) -> Any:
    """The bytes that `wire` is; `default` for nil, which means "missing".

    Raises WrongType for what a typed client stored as anything but bytes.
    """
    if type(wire) is bytes:
        return wire
    if wire is None:
        return default
    raise WrongType(
        f"the value was stored as {_stored_type(wire)}, and a raw client reads bytes only: "
        "read it with a client that is not raw, or store it as bytes"
    )


def decode_raw_column(wires: Sequence[Any], default: Any = None) -> list[Any]:
    """`decode_raw` for each; a column of bytes is returned as it is."""
    if set(map(type, wires)) <= ({bytes, type(None)} if default is None else {bytes}):
        return wires if type(wires) is list else list(wires)
    return [decode_raw(wire, default) for wire in wires]


def _stored_type(wire: Any) -> str:
    if type(wire) is not ExtType:
        return _name(wire)
    return {CODE_PACKED: "None, a list, tuple or dict", CODE_ARRAY: "a numpy array"}.get(wire.code, f"type {wire.code}")


# --- the two codecs -----------------------------------------------------------------------------------------------


class Codec(NamedTuple):
    """How values become what travels, and back: what a client chooses once, for all that it does."""

    encode: Callable[..., Wire]
    """(value, limit_bytes=…) -> wire"""
    encode_column: Callable[..., Sequence[Wire]]
    decode: Callable[..., Any]
    """(wire, default=None) -> value"""
    decode_column: Callable[..., list[Any]]


TYPED: Final = Codec(encode, encode_column, decode, decode_column)
"""Every value comes back as the type it was put."""
RAW: Final = Codec(encode_raw, encode_raw_column, decode_raw, decode_raw_column)
"""Bytes in, bytes out."""


# --- words --------------------------------------------------------------------------------------------------------


def _unsupported(value: Any) -> UsageError:
    hint = ": use bytes(...)" if isinstance(value, bytearray | memoryview) else ""
    return UsageError(
        f"a value of type {_name(value)} cannot be stored{hint}; "
        "bytes, str, int, float, bool, None, lists, tuples, dicts and numpy arrays can"
    )


def _not_raw(value: Any, why: str) -> UsageError:
    return UsageError(f"a raw client stores bytes, and cannot take a {_name(value)}: {why}; encode it first")


def _name(value: Any) -> str:
    kind = type(value)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def _short(value: Any) -> str:
    try:
        text = ascii(value)
    except Exception:  # noqa: BLE001 - str() of an int of 4301 digits is a ValueError, a __repr__ may raise anything
        return f"a very large {_name(value)}"
    return text if len(text) <= 60 else text[:50] + "…"
