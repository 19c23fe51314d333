"""What the VS Code sessions have in common: the project, its names on the screen, its pictures."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from vscode_session import VSCode

GHOST = ".ghost-text, .ghost-text-decoration, .suggest-preview-text"
BAR = ".statusbar-item[id='underkeel.underkeel.underkeel']"

SAMPLE = '''"""Stock keeping for a small shop."""

from dataclasses import dataclass


@dataclass
class Item:
    name: str
    price: float
    quantity: int


def total_value(items: list[Item]) -> float:
    """Value of the whole stock."""
    
'''  # noqa: W293
REST = '''sum(item.price * item.quantity for item in items)


def cheapest(items: list[Item]) -> Item:
    """The item with the lowest price."""
    return min(items, key=lambda item: item.price)'''
EXPLANATION = """`total_value` adds up what the whole **stock** is worth.

1. The generator goes through `items` and gives the price of each
   item times its quantity.
2. `sum` adds these numbers, starting at zero.

```python
tea, jam = Item("tea", 3.5, 2), Item("jam", 4.0, 1)
total_value([tea, jam])  # 11.0
```

An empty list adds nothing: the value is `0`.
"""
STATUS = {
    "state": "ready",
    "message": "",
    "model": "starter-moe",
    "budget": {"tokens": 640, "level": 1, "reason": "another program took 1.2 GiB of VRAM"},
    "vram": {"usedBytes": 3 << 30, "freeBytes": 900 << 20},
    "kv": {"usedTokens": 1204, "totalTokens": 8192},
    "tokensPerSecond": 47.2,
    "cacheHits": 0.87,
    "prompt": {"tokens": 634, "budgetTokens": 640, "cut": ["29 more pieces of other files"]},
}


def keep_pictures(editor: VSCode) -> None:
    """Copy a session's pictures to where the environment wants them, if it does."""
    if folder := os.environ.get("UNDERKEEL_PICTURES"):
        Path(folder).mkdir(parents=True, exist_ok=True)
        for picture in editor.pictures.glob("*.png"):
            shutil.copy(picture, Path(folder) / picture.name)
