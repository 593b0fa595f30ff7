"""Pickles read without running anything of them.

``pickle`` calls whatever a file names, hashes keys that it can nest without end, and allocates what a file
says that it will need. Here each opcode makes a plain value; a name gives what the caller has for it, and
:class:`Unknown` where it has nothing.
"""

from __future__ import annotations

import ast
import pickle
import pickletools
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO

from crispmask.text import printable

MAX_OPCODES = 10_000_000
_BLOCK = 1 << 16
_OPCODES = {opcode.code.encode("latin1"): opcode for opcode in pickletools.opcodes}
# Opcodes that push what stands behind them
_PUSHED = {
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
    *("STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8"),
    *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"),
}
_NEW: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_TUPLE": tuple,
    "EMPTY_LIST": list,
    "EMPTY_DICT": dict,
    "EMPTY_SET": set,
}
# Greater ones may have the hash of another
_LARGEST_KEY = 1 << 60


def shown(text: object, length: int = 60) -> str:
    """The start of a text of a file, for a message."""
    return printable(str(text)[:length].encode(errors="backslashreplace").decode())


class StandIn:
    """What stands for a value while a pickle is read: nothing can be written into it but its state."""

    def set_state(self, state: Any) -> None:
        """Take what the pickle says of its content.

        Raises:
            pickle.UnpicklingError: it has none.
        """
        raise pickle.UnpicklingError(f"it sets the state of a {type(self).__name__}")


class Unknown(StandIn):
    """What an unknown name is read as, and all that a pickle makes of it. It swallows its content."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __repr__(self) -> str:
        return self.name

    def set_state(self, state: Any) -> None:
        """Forget it."""


class Known:
    """A name that a pickle may call; ``make`` is what is called, with arguments as they stand there."""

    def __init__(self, make: Callable[..., Any]) -> None:
        self.make = make


class Allowance:
    """An amount that the values of a file may take in all.

    A pickle may ask for one thing many times, in two bytes each, so that a small file fills any memory.
    """

    def __init__(self, limit: int) -> None:
        self.left = limit

    def spend(self, amount: int) -> None:
        """Take some of it.

        Raises:
            pickle.UnpicklingError: nothing like that is left.
        """
        self.left -= amount
        if self.left < 0:
            raise pickle.UnpicklingError("its values take far more memory than it has bytes")


class BoundedFile:
    """A file of which no more is asked for than is there, for Python allocates first and reads then."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        start = file.tell()
        self.size = file.seek(0, 2)
        file.seek(start)
        self.readline = file.readline

    def read(self, count: int) -> bytes:
        """As that of a file.

        Raises:
            EOFError: so many bytes are not left.
        """
        if count > _BLOCK and count > self.size - self.file.tell():
            raise EOFError(f"it says that {count} bytes follow, which is more than it has")
        return self.file.read(count)


def as_key(value: Any) -> Any:
    """The value as a key of a dict or an item of a set.

    Text, bytes and numbers are such; another value could take forever to hash, and something that is equal to
    nothing stands for it.
    """
    if value is None or isinstance(value, str | bytes | float):
        return value
    if isinstance(value, int) and abs(value) < _LARGEST_KEY:
        return value
    return Unknown(f"a key of type {value.name if isinstance(value, Unknown) else type(value).__name__}")


def _pairs(items: list[Any]) -> list[tuple[Any, Any]]:
    return [(as_key(key), value) for key, value in zip(items[::2], items[1::2], strict=True)]


def _quoted(line: bytes) -> str:
    """Text in quotes as Python 2 wrote it."""
    text = line.decode("ascii").strip()
    if text[:1] not in ("'", '"') or text[-1:] != text[:1]:
        raise pickle.UnpicklingError("it has text without quotes")
    return ast.literal_eval(f"b{text}").decode("latin1")


class Unpickler:
    """One pickle of a file.

    Args:
        file: open where the pickle starts; read up to its end.
        find: what a module and a name in it stand for: :class:`Known`, :class:`Unknown`, or a value.
        load_persistent: what an id stands for that is no part of the pickle; None: there are no such ids.
    """

    def __init__(
        self,
        file: BoundedFile,
        find: Callable[[str, str], Any],
        load_persistent: Callable[[Any], Any] | None = None,
    ) -> None:
        self._file, self._find, self._load_persistent = file, find, load_persistent
        self._stack: list[Any] = []
        self._marked: list[list[Any]] = []  # what lies below each mark
        self._memo: dict[int, Any] = {}

    def load(self) -> Any:
        """The value of the pickle.

        Raises:
            Exception: of any kind, on bytes that are cut short or no pickle.
        """
        for name, argument in self._opcodes():
            if name in _PUSHED:
                self._stack.append(argument)
            elif name in _NEW:
                self._stack.append(_NEW[name]())
            elif name == "STOP":
                return self._stack.pop()
            elif handle := _HANDLERS.get(name):
                handle(self, argument)
            else:
                raise pickle.UnpicklingError(f"it has the opcode {name}, which is not read")
        raise pickle.UnpicklingError(f"it has more than {MAX_OPCODES} opcodes")

    def _opcodes(self) -> Iterator[tuple[str, Any]]:
        file: Any = self._file
        for _ in range(MAX_OPCODES):
            code = file.read(1)
            if code not in _OPCODES:
                raise (
                    EOFError("its end is missing") if not code else pickle.UnpicklingError("it is no pickle")
                )
            opcode = _OPCODES[code]
            if opcode.name == "STRING":  # pickletools reads ASCII alone
                yield opcode.name, _quoted(file.readline())
            else:
                yield opcode.name, opcode.arg.reader(file) if opcode.arg else None

    def _put(self, value: Any) -> None:
        self._stack.append(value)

    def _pop_marked(self) -> list[Any]:
        items, self._stack = self._stack, self._marked.pop()
        return items

    def _mark(self, _: None) -> None:
        self._marked.append(self._stack)
        self._stack = []

    def _pop(self, _: None) -> None:
        if self._stack:
            self._stack.pop()
        else:
            self._pop_marked()

    def _memoize(self, index: int | None) -> None:
        self._memo[len(self._memo) if index is None else index] = self._stack[-1]

    def _tuple(self, count: int) -> None:
        if len(self._stack) < count:
            raise pickle.UnpicklingError("it takes more values than there are")
        self._stack[-count:] = [tuple(self._stack[-count:])]

    def _global(self, names: str) -> None:
        self._stack.append(self._find(*names.split(" ", 1)))

    def _stack_global(self, _: None) -> None:
        name, module = self._stack.pop(), self._stack.pop()
        if not (isinstance(name, str) and isinstance(module, str)):
            raise pickle.UnpicklingError("it has a name that is no text")
        self._stack.append(self._find(module, name))

    def _call(self, function: Any, arguments: Any) -> None:
        if isinstance(function, Unknown):
            self._stack.append(Unknown(function.name))
        elif isinstance(function, Known) and isinstance(arguments, tuple):
            self._stack.append(function.make(*arguments))
        else:
            raise pickle.UnpicklingError("it calls what is no function")

    def _reduce(self, _: None) -> None:
        arguments = self._stack.pop()
        self._call(self._stack.pop(), arguments)

    def _new_object_ex(self, _: None) -> None:
        if self._stack.pop() and not isinstance(self._stack[-2], Unknown):
            raise pickle.UnpicklingError("it calls a function with named arguments")
        self._reduce(None)

    def _inst(self, names: str) -> None:
        arguments = tuple(self._pop_marked())
        self._call(self._find(*names.split(" ", 1)), arguments)

    def _obj(self, _: None) -> None:
        function, *arguments = self._pop_marked()
        self._call(function, tuple(arguments))

    def _build(self, _: None) -> None:
        state, value = self._stack.pop(), self._stack[-1]
        if isinstance(value, StandIn):
            value.set_state(state)
        elif isinstance(value, OrderedDict) and isinstance(state, dict):
            # What torch.nn.Module.state_dict() says of itself; nothing else is written beside a dict
            value.__dict__.update({key: state[key] for key in ("_metadata",) if key in state})
        else:
            raise pickle.UnpicklingError(f"it sets the state of a {type(value).__name__}")

    def _extend(self, items: list[Any]) -> None:
        target = self._stack[-1]
        if isinstance(target, list):
            target.extend(items)
        elif not isinstance(target, Unknown):
            raise pickle.UnpicklingError(f"it appends to a {type(target).__name__}")

    def _append(self, _: None) -> None:
        self._extend([self._stack.pop()])

    def _set_items(self, items: list[Any]) -> None:
        target = self._stack[-1]
        if isinstance(target, dict):
            target.update(_pairs(items))
        elif not isinstance(target, Unknown):
            raise pickle.UnpicklingError(f"it has item assignment to a {type(target).__name__}")

    def _set_item(self, _: None) -> None:
        items = self._stack[-2:]
        del self._stack[-2:]
        self._set_items(items)

    def _drop_marked(self, _: None) -> None:
        self._pop_marked()

    def _add_items(self, _: None) -> None:
        items, target = self._pop_marked(), self._stack[-1]
        if isinstance(target, set):
            target.update(map(as_key, items))
        elif not isinstance(target, Unknown):
            raise pickle.UnpicklingError(f"it adds items to a {type(target).__name__}")

    def _persistent(self, _: None) -> None:
        if self._load_persistent is None:
            raise pickle.UnpicklingError("it refers to values that are not in it")
        self._stack.append(self._load_persistent(self._stack.pop()))


_HANDLERS: dict[str, Callable[[Unpickler, Any], None]] = {
    **dict.fromkeys(("PROTO", "FRAME"), lambda *_: None),
    "MARK": Unpickler._mark,
    "POP": Unpickler._pop,
    "POP_MARK": Unpickler._drop_marked,
    "DUP": lambda reader, _: reader._stack.append(reader._stack[-1]),
    **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"), Unpickler._memoize),
    **dict.fromkeys(
        ("GET", "BINGET", "LONG_BINGET"), lambda reader, index: reader._stack.append(reader._memo[index])
    ),
    "TUPLE": lambda reader, _: reader._put(tuple(reader._pop_marked())),
    "TUPLE1": lambda reader, _: reader._tuple(1),
    "TUPLE2": lambda reader, _: reader._tuple(2),
    "TUPLE3": lambda reader, _: reader._tuple(3),
    "LIST": lambda reader, _: reader._put(reader._pop_marked()),
    "DICT": lambda reader, _: reader._put(dict(_pairs(reader._pop_marked()))),
    "FROZENSET": lambda reader, _: reader._put(frozenset(map(as_key, reader._pop_marked()))),
    "APPEND": Unpickler._append,
    "APPENDS": lambda reader, _: reader._extend(reader._pop_marked()),
    "SETITEM": Unpickler._set_item,
    "SETITEMS": lambda reader, _: reader._set_items(reader._pop_marked()),
    "ADDITEMS": Unpickler._add_items,
    "GLOBAL": Unpickler._global,
    "STACK_GLOBAL": Unpickler._stack_global,
    **dict.fromkeys(("REDUCE", "NEWOBJ"), Unpickler._reduce),
    "NEWOBJ_EX": Unpickler._new_object_ex,
    "INST": Unpickler._inst,
    "OBJ": Unpickler._obj,
    "BUILD": Unpickler._build,
    "BINPERSID": Unpickler._persistent,
}
