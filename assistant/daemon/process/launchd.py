"""The sockets that launchd opens for its agents: launch_activate_socket(3), from libSystem."""

from __future__ import annotations

import ctypes
import os
import sys

SOCKET_NAME = "Listener"
"""The key of the socket in the agent's property list."""


def listen_fds(name: str = SOCKET_NAME, library: str | None = None) -> list[int]:
    """The descriptors that launchd holds for us under `name`; none where it did not start us.

    Args:
        library: where the function is looked for; None for the process's own libraries.
    """
    if library is None and sys.platform != "darwin":
        return []
    try:
        system = ctypes.CDLL(library)
        activate = system.launch_activate_socket
    except (OSError, AttributeError):
        return []
    activate.argtypes = (
        ctypes.c_char_p,
        ctypes.POINTER(ctypes.POINTER(ctypes.c_int)),
        ctypes.POINTER(ctypes.c_size_t),
    )
    activate.restype = ctypes.c_int
    fds, count = ctypes.POINTER(ctypes.c_int)(), ctypes.c_size_t()
    if activate(name.encode(), ctypes.byref(fds), ctypes.byref(count)):
        return []  # ESRCH: not started by launchd; ENOENT: no such socket in the list
    found = [fds[index] for index in range(count.value)]
    free = system.free
    free.argtypes, free.restype = (ctypes.c_void_p,), None
    free(fds)
    for fd in found:
        os.set_inheritable(fd, False)
    return found
