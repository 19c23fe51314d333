"""llama.cpp's own account of the memory it took, or would take, by buffer type.

`llama_get_memory_breakdown` (llama-ext.h) is a C++ function that returns
`std::map<ggml_backend_buffer_type_t, {size_t model, context, compute}>` by value. It is called
under its mangled name and the map's red-black tree is read where it lies. That is only right for
libstdc++'s layout, so everything that can be checked is checked before a pointer is followed.
"""

from __future__ import annotations

import ctypes
import functools
import os
from collections.abc import Sequence
from typing import Any

from msgspec.structs import replace

from assistant.errors import EngineError, LoadError
from assistant.llama import DeviceMemory, LoadSpec, ggml, structs
from assistant.llama.ggml import llama_cpp
from assistant.llama.nextn import open_context

_BREAKDOWN = "_Z26llama_get_memory_breakdownPK13llama_context"
_TREE_STEP = "_ZSt18_Rb_tree_incrementPSt18_Rb_tree_node_base"  # only libstdc++ has it
_DELETE = "_ZdlPv"  # ::operator delete(void *)
_MOST_ENTRIES = 256
_MOST_DEPTH = 18  # a red-black tree of n nodes is at most 2 log2(n + 1) deep
_RED, _BLACK = 0, 1
_SEE_LOG = "See what llama.cpp wrote to the log"


class _Node(ctypes.Structure):
    """`std::_Rb_tree_node<pair<const buft, data>>` (bits/stl_tree.h)."""

    _fields_ = (
        ("colour", ctypes.c_int),
        ("parent", ctypes.c_void_p),
        ("left", ctypes.c_void_p),
        ("right", ctypes.c_void_p),
        ("buffer_type", ctypes.c_void_p),
        ("model", ctypes.c_size_t),
        ("context", ctypes.c_size_t),
        ("compute", ctypes.c_size_t),
    )


class _Map(ctypes.Structure):
    """`std::map` of libstdc++: the comparison (empty), the header node, the count.

    ctypes returns a structure of this size as the C++ ABI returns a class that is not trivially
    copyable: through memory that the caller provides.
    """

    _fields_ = (
        ("compare", ctypes.c_size_t),
        ("colour", ctypes.c_size_t),
        ("root", ctypes.c_void_p),
        ("leftmost", ctypes.c_void_p),
        ("rightmost", ctypes.c_void_p),
        ("count", ctypes.c_size_t),
    )


def read(context: Any) -> tuple[DeviceMemory, ...]:
    """What the context and its model take, one entry a buffer type.

    Args:
        context: a live `llama_context *`.

    Raises:
        EngineError: this build of llama.cpp cannot be queried.
    """
    tree: _Map = _functions()[0](context)
    nodes = _nodes(tree)
    try:
        return tuple(_entry(node) for node in nodes)
    finally:
        _free(nodes)


def dry_run(spec: LoadSpec) -> tuple[DeviceMemory, ...]:
    """What loading `spec` would take, without allocating it or reading a weight: 20 to 40 ms.

    llama.cpp ends the process on some impossible parameters, so run this in a process that may die.

    Raises:
        LoadError: llama.cpp refuses the model or the context.
        EngineError: this build of llama.cpp cannot be queried.
    """
    _functions()
    ggml.initialise()
    native = structs.model_params(spec, no_alloc=True)
    model = llama_cpp.llama_model_load_from_file(os.fsencode(spec.path), native.struct)
    if not model:
        raise LoadError("llama.cpp refuses the model", subject=spec.path, advice=_SEE_LOG)
    try:
        context = llama_cpp.llama_init_from_model(model, structs.context_params(spec))
        if not context:
            raise LoadError("llama.cpp refuses the context", subject=spec.path, advice=_SEE_LOG)
        try:
            return _with_nextn(model, context, spec) if spec.nextn else read(context)
        finally:
            llama_cpp.llama_free(context)
    finally:
        llama_cpp.llama_model_free(model)


def together(
    trunk: Sequence[DeviceMemory], nextn: Sequence[DeviceMemory]
) -> tuple[DeviceMemory, ...]:
    """The memory of a context and of a second one of the same model, its weights counted once."""
    weightless = (replace(row, weights_bytes=0) for row in nextn)
    return (*trunk, *(row for row in weightless if row.kv_bytes or row.compute_bytes))


def _with_nextn(model: Any, context: Any, spec: LoadSpec) -> tuple[DeviceMemory, ...]:
    second = open_context(model, context, spec)
    try:
        return together(read(context), read(second))
    finally:
        llama_cpp.llama_free(second)


@functools.cache
def _functions() -> tuple[Any, Any]:
    """The breakdown's entry point and C++'s delete, once the layout is known to be libstdc++'s."""
    library = llama_cpp._lib
    needed = (_BREAKDOWN, _TREE_STEP, _DELETE)
    if ctypes.sizeof(ctypes.c_void_p) != 8 or not all(hasattr(library, name) for name in needed):
        raise _unreadable("it does not export what is needed for that")
    breakdown, delete = getattr(library, _BREAKDOWN), getattr(library, _DELETE)
    breakdown.restype, breakdown.argtypes = _Map, [ctypes.c_void_p]
    delete.restype, delete.argtypes = None, [ctypes.c_void_p]
    return breakdown, delete


def _nodes(tree: _Map) -> list[_Node]:
    """All nodes in order; nothing is followed before the header is plausible."""
    ends = (tree.root, tree.leftmost, tree.rightmost)
    plausible = (
        0 < tree.count <= _MOST_ENTRIES
        and tree.colour & 0xFFFFFFFF == _RED  # libstdc++ marks the header red, the root black
        and all(end and end % ctypes.alignment(_Node) == 0 for end in ends)
    )
    if not plausible:
        raise _unreadable("its answer is not laid out as expected")
    nodes: list[_Node] = []
    _walk(tree.root, nodes, depth=0)
    first, last = ctypes.addressof(nodes[0]), ctypes.addressof(nodes[-1])
    if len(nodes) != tree.count or (first, last) != (tree.leftmost, tree.rightmost):
        raise _unreadable("its answer is not laid out as expected")
    return nodes


def _walk(address: int | None, nodes: list[_Node], depth: int) -> None:
    if not address:
        return
    node = _Node.from_address(address)
    if node.colour not in {_RED, _BLACK} or depth > _MOST_DEPTH:
        raise _unreadable("its answer is not laid out as expected")
    _walk(node.left, nodes, depth + 1)
    nodes.append(node)
    _walk(node.right, nodes, depth + 1)


def _entry(node: _Node) -> DeviceMemory:
    device = ggml.buffer_type_device(node.buffer_type)
    return DeviceMemory(
        buffer_type=ggml.buffer_type_name(node.buffer_type),
        weights_bytes=node.model,
        kv_bytes=node.context,
        compute_bytes=node.compute,
        is_host=device == ggml.CPU,
        device=device,
    )


def _free(nodes: list[_Node]) -> None:
    """End the map's life as its destructor would: the values need no destructor of their own."""
    delete = _functions()[1]
    for node in nodes:
        delete(ctypes.addressof(node))


def _unreadable(why: str) -> EngineError:
    return EngineError(
        f"llama.cpp's memory breakdown cannot be read: {why}",
        subject="llama-cpp-python",
        advice="Install the version that Underkeel asks for, built with GCC's C++ library",
    )
