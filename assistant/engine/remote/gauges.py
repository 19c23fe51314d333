"""Reads what servers tell of themselves in Prometheus' text format. Pure."""

from __future__ import annotations

import math
import re

_SAMPLE = re.compile(
    r"^(?P<name>[a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{(?P<labels>[^}\n]*)\})?[ \t]+(?P<value>\S+)",
    re.MULTILINE,
)
_MODEL = re.compile(r'model_name="((?:[^"\\]|\\.)*)"')


def read_gauges(text: str, model: str = "") -> dict[str, float]:
    """The sum of each metric's samples by its name, `_total` left off.

    Args:
        model: leave out samples that are labelled with another model's name.
    """
    found: dict[str, float] = {}
    for sample in _SAMPLE.finditer(text):
        labelled = _MODEL.search(sample["labels"] or "")
        if model and labelled and labelled[1] != model:
            continue
        try:
            value = float(sample["value"])
        except ValueError:
            continue
        if math.isfinite(value):
            name = sample["name"].removesuffix("_total")
            found[name] = found.get(name, 0.0) + value
    return found
