"""ggml's devices, buffer types and log through ctypes, and the loading of further backends.

Handles are plain addresses that live as long as the process. Every symbol is resolved through
llama-cpp-python's own library object: opening `libggml` again would map a second copy whose
registry is a different one. llama.cpp's log goes to Python's logging; its last errors are kept for
our messages.
"""

from __future__ import annotations

import ctypes
import functools
import importlib
import importlib.util
import logging
import os
import sys
from collections import deque
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from assistant.errors import EngineError, LoadError
from assistant.llama import BackendDevice, DeviceFree, DeviceKind


def _declarations() -> Any:
    """llama-cpp-python's declarations of llama.cpp's C interface: `llama_cpp.llama_cpp`.

    They are imported while their package is not executed: it also imports a chat wrapper with
    jinja2 and a disk cache, which takes several times as long in every process that a start of the
    daemon waits for. A later `import llama_cpp` executes it as usual and finds the same module.
    """
    name = "llama_cpp.llama_cpp"
    spec = None if "llama_cpp" in sys.modules else importlib.util.find_spec("llama_cpp")
    if spec is None:
        return importlib.import_module(name)  # imported already, or not installed
    sys.modules["llama_cpp"] = importlib.util.module_from_spec(spec)
    try:
        return importlib.import_module(name)
    finally:
        del sys.modules["llama_cpp"]


llama_cpp = _declarations()

_logger = logging.getLogger("underkeel.llama")
_logger.addHandler(logging.NullHandler())  # who wants it configures logging

_LEVELS = {
    1: logging.DEBUG,
    2: logging.DEBUG,  # what llama.cpp calls information is detail here
    3: logging.INFO,
    4: logging.WARNING,  # the caller decides whether it is an error of ours
}
"""`enum ggml_log_level` (ggml/include/ggml.h); 0 is none, 5 goes on with the line before."""

_ERROR, _CONTINUE = 4, 5
_KEPT_LINES = 40
_MOST_LINE = 2000

_complaints: deque[str] = deque(maxlen=_KEPT_LINES)


class _Lines:
    """Puts the pieces that llama.cpp logs together to lines."""

    def __init__(self) -> None:
        self._level = 0
        self._pending = ""

    def take(self, level: int, text: str) -> None:
        if level != _CONTINUE:
            self._end()
            self._level = level
        self._pending += text
        if self._pending.endswith("\n") or len(self._pending) > _MOST_LINE:
            self._end()

    def _end(self) -> None:
        line, self._pending = self._pending.strip(), ""
        if not line:
            return
        if self._level == _ERROR:
            _complaints.append(line)
        _logger.log(_LEVELS.get(self._level, logging.DEBUG), "%s", line)


@functools.cache
def capture() -> object:
    """Send llama.cpp's log here instead of to stderr, once a process."""
    lines = _Lines()

    @llama_cpp.llama_log_callback  # type: ignore[untyped-decorator]
    def callback(level: int, text: bytes | None, _: object) -> None:
        lines.take(level, (text or b"").decode("utf-8", "replace"))

    llama_cpp.llama_log_set(callback, ctypes.c_void_p(0))
    return callback  # the cache keeps it alive for llama.cpp


def clear() -> None:
    """Forget the complaints so far."""
    _complaints.clear()


def reason(default: str) -> str:
    """The first complaint since `clear`, without the names of llama.cpp's functions.

    llama.cpp logs the cause first and what failed because of it afterwards.
    """
    for line in _complaints:
        return line.partition(": ")[2].removeprefix("error loading model: ") or line
    return default


BACKENDS_VARIABLE = "UNDERKEEL_GGML_BACKENDS"
"""Further ggml backend libraries (paths, separated as PATH is) that this process loads."""

CPU = "CPU"

_KINDS = {
    0: DeviceKind.CPU,
    1: DeviceKind.GPU,
    2: DeviceKind.IGPU,
    3: DeviceKind.ACCELERATOR,
    4: DeviceKind.META,
}
"""`enum ggml_backend_dev_type` (ggml/include/ggml-backend.h)."""


class _Capabilities(ctypes.Structure):
    _fields_ = tuple(
        (name, ctypes.c_bool)
        for name in ("async_", "host_buffer", "buffer_from_host_ptr", "events", "mmap")
    )


class _Properties(ctypes.Structure):
    """`struct ggml_backend_dev_props`."""

    _fields_ = (
        ("name", ctypes.c_char_p),
        ("description", ctypes.c_char_p),
        ("memory_free", ctypes.c_size_t),
        ("memory_total", ctypes.c_size_t),
        ("type", ctypes.c_int),
        ("device_id", ctypes.c_char_p),
        ("capabilities", _Capabilities),
        ("reserve", ctypes.c_uint8 * 64),  # room for fields that a later ggml may add
    )


_SIGNATURES: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "ggml_type_name": (ctypes.c_char_p, (ctypes.c_int,)),
    "ggml_backend_load": (ctypes.c_void_p, (ctypes.c_char_p,)),
    "ggml_backend_dev_count": (ctypes.c_size_t, ()),
    "ggml_backend_dev_get": (ctypes.c_void_p, (ctypes.c_size_t,)),
    "ggml_backend_dev_name": (ctypes.c_char_p, (ctypes.c_void_p,)),
    "ggml_backend_dev_type": (ctypes.c_int, (ctypes.c_void_p,)),
    "ggml_backend_dev_memory": (None, (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p)),
    "ggml_backend_dev_get_props": (None, (ctypes.c_void_p, ctypes.c_void_p)),
    "ggml_backend_dev_buffer_type": (ctypes.c_void_p, (ctypes.c_void_p,)),
    "ggml_backend_cpu_buffer_type": (ctypes.c_void_p, ()),
    "ggml_backend_buft_name": (ctypes.c_char_p, (ctypes.c_void_p,)),
    "ggml_backend_buft_is_host": (ctypes.c_bool, (ctypes.c_void_p,)),
    "ggml_backend_buft_get_device": (ctypes.c_void_p, (ctypes.c_void_p,)),
}


@functools.cache
def function(name: str) -> Any:
    """One of ggml's C functions, typed.

    Raises:
        EngineError: the installed llama-cpp-python does not export it.
    """
    result, arguments = _SIGNATURES[name]
    try:
        symbol = getattr(llama_cpp._lib, name)
    except AttributeError as error:
        raise EngineError(
            f"the installed llama.cpp has no {name}",
            subject="llama-cpp-python",
            advice="Install the version that Underkeel asks for",
        ) from error
    symbol.restype, symbol.argtypes = result, list(arguments)
    return symbol


@functools.cache
def initialise() -> None:
    """Make llama.cpp ready, once a process: its own tables and the further backend libraries.

    Raises:
        LoadError: a backend library is missing or refused.
    """
    capture()
    llama_cpp.llama_backend_init()
    load_backends()


@functools.cache
def load_backends() -> None:
    """Load the libraries that `UNDERKEEL_GGML_BACKENDS` names, once a process.

    Each is a shared library that exports `ggml_backend_init`, such as a Vulkan or SYCL backend
    built for the same ggml, and stands beside what llama-cpp-python was built with.

    Raises:
        LoadError: a library is missing, or was built for another ggml.
    """
    for name in filter(None, os.environ.get(BACKENDS_VARIABLE, "").split(os.pathsep)):
        path = Path(name).expanduser()
        if not path.is_file():
            raise _backend_error(path, "there is no such backend library")
        if not function("ggml_backend_load")(os.fsencode(path)):
            raise _backend_error(path, "ggml refused this backend library")


def _backend_error(path: Path, message: str) -> LoadError:
    return LoadError(
        message,
        subject=str(path),
        advice=f"Name a library built for the installed llama.cpp, or fix {BACKENDS_VARIABLE}",
    )


def devices() -> tuple[BackendDevice, ...]:
    """Every device that ggml knows, in its order.

    Asking a CUDA device for its free memory creates a CUDA context, which takes some hundred
    MiB: only a process that will use the device should ask.
    """
    return tuple(_describe(handle) for handle in _handles())


def device(name: str) -> int:
    """Handle of the device called `name`.

    Raises:
        LoadError: no such device.
    """
    known = {_text(function("ggml_backend_dev_name")(handle)): handle for handle in _handles()}
    if name not in known:
        raise LoadError(
            "llama.cpp knows no such device",
            subject=name,
            advice=f"Known are: {', '.join(known)}",
        )
    return known[name]


def memory(name: str) -> DeviceFree:
    """What the device called `name` has of memory now; only for a process that uses it."""
    free, total = ctypes.c_size_t(), ctypes.c_size_t()
    function("ggml_backend_dev_memory")(device(name), ctypes.byref(free), ctypes.byref(total))
    return DeviceFree(name=name, total_bytes=total.value, free_bytes=free.value)


def buffer_type(device_name: str) -> int:
    """Handle of the buffer type for weights on a device; "CPU" is plain host memory."""
    if device_name == CPU:
        return int(function("ggml_backend_cpu_buffer_type")())
    return int(function("ggml_backend_dev_buffer_type")(device(device_name)))


def buffer_type_name(handle: int) -> str:
    return _text(function("ggml_backend_buft_name")(handle))


def buffer_type_device(handle: int) -> str:
    """Name of the device whose memory a buffer type takes; "CPU" for all kinds of host memory.

    A GPU's pinned host buffers and the CPU's repacked weights are host memory too.
    """
    if function("ggml_backend_buft_is_host")(handle):
        return CPU
    owner = function("ggml_backend_buft_get_device")(handle)
    if not owner:
        return CPU
    kind = _KINDS.get(function("ggml_backend_dev_type")(owner))
    if kind in {DeviceKind.CPU, DeviceKind.ACCELERATOR}:
        return CPU
    return _text(function("ggml_backend_dev_name")(owner))


def _handles() -> Iterable[int]:
    load_backends()
    for index in range(function("ggml_backend_dev_count")()):
        yield function("ggml_backend_dev_get")(index)


def _describe(handle: int) -> BackendDevice:
    properties = _Properties()
    function("ggml_backend_dev_get_props")(handle, ctypes.byref(properties))
    return BackendDevice(
        name=_text(properties.name),
        description=_text(properties.description),
        kind=_KINDS.get(properties.type, DeviceKind.META),
        total_bytes=properties.memory_total,
        free_bytes=properties.memory_free,
        bus_id=_text(properties.device_id),
    )


def _text(raw: bytes | None) -> str:
    return (raw or b"").decode("utf-8", "replace")
