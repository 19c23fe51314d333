"""How many examples the tests of properties try.

`make test` tries some of them, `make fuzz` sets UNDERKEEL_EXAMPLES to try so many times as many.
"""

from __future__ import annotations

import os

FACTOR = int(os.environ.get("UNDERKEEL_EXAMPLES", "1"))


def examples(usual: int) -> int:
    """So many in `make test`, more in `make fuzz`."""
    return usual * FACTOR
