"""The daemon's side of systemd and launchd, without their libraries: notifications and sockets.

See sd_notify(3), sd_listen_fds(3) and launch_activate_socket(3).
"""

from __future__ import annotations

import ctypes
import os
import socket
import sys
import time
from collections.abc import Mapping, MutableMapping


class Notifier:
    """Tells the service manager how the daemon is; silent where there is none."""

    def __init__(self, environment: Mapping[str, str] = os.environ) -> None:
        self._path = environment.get("NOTIFY_SOCKET", "")
        watchdog = environment.get("WATCHDOG_USEC", "")
        ours = environment.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        self.watchdog_s = int(watchdog) / 1e6 if watchdog.isdigit() and ours else 0.0
        """How often it wants to hear from us at the least; 0 where it does not care."""

    @property
    def listened(self) -> bool:
        return bool(self._path)

    def ready(self) -> None:
        self._send("READY=1", f"MAINPID={os.getpid()}")

    def status(self, text: str) -> None:
        self._send(f"STATUS={' '.join(text.split())}")

    def reloading(self) -> None:
        """To be followed by `ready`."""
        self._send("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def stopping(self) -> None:
        self._send("STOPPING=1")

    def alive(self) -> None:
        self._send("WATCHDOG=1")

    def _send(self, *lines: str) -> None:
        if not self._path:
            return
        address = "\0" + self._path[1:] if self._path.startswith("@") else self._path
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
                sender.setblocking(False)
                sender.sendto("\n".join(lines).encode(), address)
        except OSError:
            return  # it does not listen any more, or is behind; neither is our trouble


def systemd_fds(environment: MutableMapping[str, str] = os.environ) -> dict[int, str]:
    """Descriptors that systemd has opened for us, with their names: sd_listen_fds(3).

    The variables are taken out of the environment, so that no child believes they are its own.
    """
    pid = environment.pop("LISTEN_PID", "")
    count = environment.pop("LISTEN_FDS", "")
    names = environment.pop("LISTEN_FDNAMES", "").split(":")
    if pid != str(os.getpid()) or not count.isdigit():
        return {}
    first = 3  # SD_LISTEN_FDS_START
    found = range(first, first + int(count))
    for fd in found:
        os.set_inheritable(fd, False)
    return {fd: names[fd - first] if fd - first < len(names) else "" for fd in found}


SOCKET_NAME = "Listener"
"""The key of the socket in the agent's property list."""


def launchd_fds(name: str = SOCKET_NAME, library: str | None = None) -> list[int]:
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
