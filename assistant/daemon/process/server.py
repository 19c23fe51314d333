"""Runs the daemon: the single instance, the web server, signals and notifications.

systemd and launchd are spoken to without their libraries: see sd_notify(3), sd_listen_fds(3) and
launch_activate_socket(3).
"""

from __future__ import annotations

import asyncio
import ctypes
import logging
import os
import re
import signal
import socket
import sys
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping, MutableMapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

import uvicorn

from assistant import __version__, oom_score, settings
from assistant.daemon.engine_supervisor import Planner
from assistant.daemon.http.app import Connection, WebServer, build_app
from assistant.daemon.http.bodies import TokenGate
from assistant.daemon.loading import (
    Loadable,
    LocalPlanning,
    Planning,
    local_engine,
    planner_for,
    tell_changes,
)
from assistant.daemon.process import handover, instance, settings_changes
from assistant.daemon.process.handover import HandoverOffer, Predecessor
from assistant.daemon.process.instance import Claim
from assistant.daemon.process.settings_changes import Follower, Read
from assistant.daemon.served_models import Explainer, Ledger, Models
from assistant.daemon.service import Service
from assistant.engine.local import LlamaEngine
from assistant.engine.types import ElasticEngine
from assistant.errors import DaemonError, SettingsError
from assistant.memory.devices import name_backends
from assistant.memory.planning.together import explain_settings
from assistant.memory.sampler import QUIET_AFTER_S, Probes, Reader
from assistant.settings import Settings

_COUNT = re.compile(r"[0-9]{1,15}")


class Notifier:
    """Tells the service manager how the daemon is; silent where there is none."""

    def __init__(self, environment: Mapping[str, str] = os.environ) -> None:
        self._path = environment.get("NOTIFY_SOCKET", "")
        watchdog = environment.get("WATCHDOG_USEC", "")
        ours = environment.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        self.watchdog_s = int(watchdog) / 1e6 if _COUNT.fullmatch(watchdog) and ours else 0.0
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
    if pid != str(os.getpid()) or not _COUNT.fullmatch(count):
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


log = logging.getLogger(__name__)

# What is still open this long after the engine was closed is cut off.
_LAST_WORDS_S = 5
_TELL_S, _QUIET_TELL_S = 1.0, 10.0
# A predecessor that has its last answers written is given so long to end.
_LEAVING_S = 30.0
_FILES = 8192


def run(
    chosen: Settings,
    problems: Sequence[SettingsError],
    engine: ElasticEngine,
    *,
    read: Read = settings.load,
    take_over: bool = False,
) -> None:
    """Serve until told to stop.

    Args:
        problems: what was wrong with the settings; logged, and never fatal.
        read: how the settings are read again when their file changes.
        take_over: if a daemon is running, take its place without losing a request.

    Raises:
        DaemonError: another daemon is running, or the socket cannot be created.
    """
    oom_score.raise_to(oom_score.DAEMON)
    _allow_many_connections()
    name_backends(chosen.engine.backend_libraries)
    notifier = Notifier()
    from_systemd, from_launchd = list(systemd_fds()), launchd_fds()
    claim = partial(
        instance.claim,
        activated=[*from_systemd, *from_launchd],
        tcp_port=chosen.daemon.tcp_port,
        take_over=take_over,
    )
    with claim() as claimed:
        where = ", ".join(str(listener.getsockname()) for listener in claimed.listeners)
        log.info("daemon version=%s listening=%s", __version__, where)
        for problem in problems:
            log.warning("settings: %s", problem)
        probes = Probes()
        planning = LocalPlanning(chosen.model, probes)
        limit_s = chosen.daemon.request_limit_s
        ledger = Ledger()
        planning.credit = lambda: ledger.others("complete")
        planner = planner_for(chosen, ledger.planner("complete", planning))
        planner = after(claimed.predecessor, planner, limit_s) if claimed.predecessor else planner
        service = Service(engine, planner, chosen, probes, identity=planning.identity)
        tell_changes(engine, service.supervisor.exchanged)
        service.models = seat_models(service, planning, ledger, probes)
        if from_launchd:
            service.service_manager = "launchd"
        elif from_systemd or notifier.listened:
            service.service_manager = "systemd"

        def take_model(new: Settings) -> None:
            planning.settings = new.model

        follower = Follower(service, read, take_model=take_model)
        # A successor plans when the predecessor's memory is free, which may take minutes.
        prepare = engine.prepare if isinstance(engine, LlamaEngine) and not take_over else None
        serving = serve(service, claimed, notifier=notifier, follower=follower, prepare=prepare)
        asyncio.run(serving)
        log.info("stopped")


async def serve(
    service: Service,
    claimed: Claim,
    *,
    notifier: Notifier | None = None,
    follower: Follower | None = None,
    prepare: Callable[[], Coroutine[Any, Any, None]] | None = None,
) -> None:
    """Serve `service` on the claim's listeners until told to stop, or until a successor serves.

    Args:
        prepare: gets the engine ready for its first load while that is planned; planning then
            starts at once, not only with the web server.
    """
    notifier = notifier or Notifier({})
    server: WebServer | None = None
    tasks: list[asyncio.Task[None]] = []
    service.supervisor.expect(claimed.served)
    if prepare is not None:
        tasks.append(asyncio.create_task(prepare()))
        service.supervisor.start_load()
        await asyncio.sleep(0)  # both begin, in a process and a thread, before the server is built

    def stop() -> None:
        assert server is not None
        server.end()

    def begin() -> None:
        """Connections are accepted."""
        assert server is not None
        claimed.serving()
        notifier.ready()
        tasks.append(asyncio.create_task(_offer(service, claimed, server.leave)))
        if notifier.listened:
            tasks.append(asyncio.create_task(_tell(service, notifier)))
        if follower is not None:
            again = partial(_reload, follower, notifier)
            tasks.append(asyncio.create_task(settings_changes.watch(follower.path, again)))
            if hasattr(signal, "SIGHUP"):
                asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, again)

    app = build_app(service, stop, **({"reload": follower.reload} if follower else {}))
    config = uvicorn.Config(
        TokenGate(app, claimed.token),
        http=Connection,
        log_config=None,
        access_log=False,
        server_header=False,
        date_header=False,
        lifespan="on",
        timeout_keep_alive=75,
        timeout_graceful_shutdown=_LAST_WORDS_S,
    )
    server = WebServer(config, service, begin, leave_on_signal=claimed.activated)
    try:
        await server.run_on(claimed.listeners)
    finally:
        if claimed.activated:
            handover.record_served_model(service.supervisor.info)
        notifier.stopping()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def after(predecessor: Predecessor, planner: Planner, limit_s: float) -> Planner:
    """A planner that first waits until the predecessor has given its memory back."""

    def plan() -> Loadable:
        if not predecessor.wait_ended(limit_s + _LEAVING_S):
            log.warning("the daemon before us has not ended; planning with what is free")
        return planner()

    return plan


async def _offer(service: Service, claimed: Claim, leave: Callable[[], Awaitable[None]]) -> None:
    """Let a successor take our place, whenever one asks."""
    if claimed.activated or not handover.possible():
        return  # the service manager hands the sockets on
    try:
        door = instance.listen_private(handover.path())
    except (OSError, DaemonError) as error:
        log.warning("no daemon can take over from this one: %s", error)
        return
    loop = asyncio.get_running_loop()
    with door:
        while True:
            channel, _ = await loop.sock_accept(door)
            offer = HandoverOffer(
                version=__version__,
                pid=os.getpid(),
                model=service.supervisor.info,
                token=claimed.token,
            )
            fds = [listener.fileno() for listener in claimed.listeners]
            with channel:
                giving = asyncio.to_thread(handover.give, channel, offer, claimed.lock, fds)
                try:
                    given = await giving
                except asyncio.CancelledError:
                    handover.hang_up(channel)
                    raise
                if given:
                    log.info("a successor serves")
                    claimed.give()
                    await leave()
                    # The channel ends with our memory: the successor waits for that.
                    await service.close()
                    return
                log.warning("a successor came and did not serve; staying")


async def _tell(service: Service, notifier: Notifier) -> None:
    """Keep the service manager informed of each change, and its watchdog quiet."""
    told = ""
    while True:
        supervisor = service.supervisor
        name = supervisor.info.name if supervisor.info else "no model yet"
        text = f"{supervisor.state.value}: {supervisor.stage or name}"
        if text != told:
            notifier.status(text)
            told = text
        notifier.alive()
        pause_s = _QUIET_TELL_S if service.governor.idle_s >= QUIET_AFTER_S else _TELL_S
        await asyncio.sleep(min(pause_s, notifier.watchdog_s / 2 or pause_s))


def _reload(follower: Follower, notifier: Notifier) -> None:
    notifier.reloading()
    try:
        follower.reload()
    finally:
        notifier.ready()


def _allow_many_connections() -> None:
    """Connections cost a file each, and some systems allow 256 unless asked for more."""
    try:
        import resource
    except ImportError:  # Windows has no such limit
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _FILES if hard == resource.RLIM_INFINITY else min(_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def seat_models(service: Service, planning: Planning, ledger: Ledger, look: Reader) -> Models:
    """Give the service its second model, if the settings name one, and the way to change both.

    Args:
        planning: of the model for completions.
    """
    settings = service.settings
    ledger.supervisors["complete"] = service.supervisor
    plannings = {"complete": planning}
    explain = settings.explain
    if explain.name:
        second = LocalPlanning(explain_settings(settings), look, lambda: ledger.others("explain"))
        service.explainer = Explainer(
            local_engine(settings, explain.name),
            ledger.planner("explain", second),
            settings,
            look,
            busy=lambda: service.admission.inside > 0,
            identity=second.identity,
        )
        ledger.supervisors["explain"] = service.explainer.served.supervisor
        plannings["explain"] = second
    return Models(plannings, ledger)
