"""What the settings ask of a plan: one place for the daemon and for every command that plans."""

from __future__ import annotations

from assistant.memory.plan import Wishes
from assistant.settings import ModelSettings


def wishes_of(settings: ModelSettings) -> Wishes:
    """The wishes by which the daemon plans the model of these settings."""
    overhead_mib = settings.vram_overhead_mib
    return Wishes(
        n_ctx=settings.n_ctx,
        cache_type=settings.cache_type,
        n_seq_max=settings.n_seq_max,
        margin_bytes=settings.vram_margin_mib << 20,
        overhead_bytes=overhead_mib << 20 if overhead_mib >= 0 else -1,
    )
