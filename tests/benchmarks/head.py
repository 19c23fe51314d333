"""How every result begins (what was measured, when, on which machine), and where it goes."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any


def head(benchmark: str, **more: Any) -> dict[str, Any]:
    """Ask for it before the work: the load average is what others did then.

    Args:
        more: versions and the like, that belong to the machine.
    """
    return {
        "benchmark": benchmark,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": {
            "system": f"{platform.system()} {platform.machine()}",
            "cpu": _processor(),
            "cores": os.cpu_count(),
            "python": platform.python_version(),
            "load_average_before": round(os.getloadavg()[0], 1),
            **more,
        },
    }


def publish(result: Mapping[str, Any], path: Path, *, save: bool) -> None:
    """Print a result as JSON, and keep it in `path` where that is wanted."""
    text = json.dumps(result, indent=1, ensure_ascii=False)
    print(text)
    if save:
        path.write_text(text + "\n", encoding="utf-8")


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        return platform.processor()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor())
