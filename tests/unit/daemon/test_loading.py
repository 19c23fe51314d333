"""What is free of a plan's devices: by the driver where one knows the GPU, else by the engine; and
when a plan is made."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any

import pytest
from daemons import Memory, fake_model
from fake_engine import FakeEngine

from assistant.client.client import DaemonClient
from assistant.daemon.http import app
from assistant.daemon.loading import Loadable
from assistant.daemon.process import instance, server
from assistant.daemon.service import Service
from assistant.llama import BackendDevice, DeviceFree, DeviceKind
from assistant.memory.devices import GpuMemory, HostMemory
from assistant.memory.sampler import Sample
from assistant.settings import Settings

MIB = 1 << 20


def backend(name: str, bus_id: str = "") -> BackendDevice:
    return BackendDevice(
        name=name,
        description=name,
        kind=DeviceKind.GPU,
        total_bytes=8000 * MIB,
        free_bytes=7000 * MIB,  # when it was listed, long ago
        bus_id=bus_id,
    )


def test_the_driver_then_the_engine_then_what_was_listed() -> None:
    loadable = Loadable(
        fake_model().ladder,
        backend=(backend("CUDA0", "0000:01:00.0"), backend("Vulkan0"), backend("Vulkan1")),
    )
    gpu = GpuMemory("a GPU", "0000:01:00.0", "nvml", 8000 * MIB, 5000 * MIB)
    sample = Sample(at_s=0.0, gpus=(gpu,), host_memory=HostMemory(100 * MIB, 60 * MIB))
    engine = [
        DeviceFree(name="CUDA0", total_bytes=8000 * MIB, free_bytes=1 * MIB),
        DeviceFree(name="Vulkan0", total_bytes=4000 * MIB, free_bytes=2000 * MIB),
    ]
    found = {device.name: device.free_bytes // MIB for device in loadable.devices(sample, engine)}
    assert found == {"CUDA0": 5000, "Vulkan0": 2000, "Vulkan1": 7000, "CPU": 60}
    without = {device.name: device.free_bytes // MIB for device in loadable.devices(sample)}
    assert without["Vulkan0"] == 7000


def test_a_lost_gpu_has_nothing_whatever_the_engine_says() -> None:
    loadable = Loadable(fake_model().ladder, backend=(backend("CUDA0", "0000:01:00.0"),))
    sample = Sample(
        at_s=0.0, gpus=(), host_memory=HostMemory(100 * MIB, 60 * MIB), lost=("0000:01:00.0",)
    )
    engine = [DeviceFree(name="CUDA0", total_bytes=8000 * MIB, free_bytes=7000 * MIB)]
    assert loadable.devices(sample, engine)[0].free_bytes == 0


def test_the_plan_is_started_before_the_web_server_is_built(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    planned, prepared = threading.Event(), threading.Event()
    build = app.build_app

    def plan() -> Loadable:
        planned.set()
        return fake_model()

    async def prepare() -> None:
        prepared.set()

    def built(*given: Any, **named: Any) -> Any:
        assert prepared.is_set() and planned.wait(30)
        return build(*given, **named)

    monkeypatch.setattr(server, "build_app", built)

    async def main() -> None:
        with instance.claim() as claimed:
            service = Service(FakeEngine(), plan, Settings(), Memory())
            task = asyncio.create_task(server.serve(service, claimed, prepare=prepare))
            async with DaemonClient(autostart=False) as client:
                await client.wait_ready()
                await client.stop()
            await task

    asyncio.run(main())
