"""All checks in order. A check that raises an unexpected error is a finding too."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import psutil

from assistant import paths
from assistant import settings as all_settings
from assistant.doctor import hardware, remote, software
from assistant.doctor.findings import Finding, fail
from assistant.errors import UnderkeelError
from assistant.install.detect import detect
from assistant.memory.probes.devices import ask_backend
from assistant.memory.probes.sampler import Probes


def examine(*, deep: bool = False) -> Iterator[Finding]:
    """Run every check, those first that others depend on.

    Args:
        deep: verify the model's checksum, however long it takes.
    """
    chosen, problems = all_settings.load()
    probes = Probes()
    try:
        sample = probes()
        yield from _safely("python", lambda: [hardware.python(), hardware.packages()])
        yield from _safely(
            "llama.cpp",
            lambda: hardware.build(ask_backend(), sample.gpus, sample.trouble, detect()),
        )
        yield from _safely("threads", lambda: [hardware.computing(chosen.model.n_threads)])
        swap_bytes = psutil.swap_memory().used
        yield from _safely("memory", lambda: hardware.memory(sample.host_memory, swap_bytes))
        folders = [("models", paths.models_dir()), ("logs", paths.state_dir())]
        yield from _safely("disk", lambda: hardware.disk(folders))
        yield from _safely("limits", lambda: hardware.limits(mlock=chosen.model.mlock))
        yield from _safely("settings", lambda: software.settings(problems))
        yield from _safely("socket", software.socket)
        found, status = software.daemon()
        yield from found
        yield from _safely("service", software.service)
        yield from _safely("server", lambda: remote.server(chosen.remote))
        if remote.local_answers(chosen.remote):
            yield from _safely("model", lambda: software.model(chosen, deep=deep))
            yield from _safely("plan", lambda: software.plan(chosen, probes, status))
        yield from _safely("log", software.log)
        yield from _safely("editors", software.editors)
    finally:
        probes.close()


def _safely(name: str, check: Callable[[], list[Finding]]) -> list[Finding]:
    try:
        return check()
    except UnderkeelError as error:
        return [fail(name, str(error.message), error.advice)]
    except Exception as error:  # the other checks still run
        return [fail(name, f"the check itself failed: {type(error).__name__}: {error}")]
