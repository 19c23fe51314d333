"""The result of `layouts.py report` as Markdown tables.

python tests/benchmarks/layout_table.py    # write results/layouts.md anew from layouts.json
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

RESULT = Path(__file__).with_name("results") / "layouts.json"

SHIFT = """\
## Why cells are not shifted

llama.cpp can move cells to other positions (`llama_memory_seq_add` turns the keys by as much)
so that text after an edit need not be evaluated again. It is not used here, for what it would save
and what it costs:

- Typing, going back and returning cost 1 to 3 tokens already with the layout in use and four slots:
  there is nothing left to shift.
- A jump, and a line put in below, change the text after the cursor, which stands first in this
  layout. What would be shifted has then seen another text before it: its cells are not what
  evaluation would give, only their positions. Shifting is exact for a window whose start is dropped
  with everything that depends on it, never for text behind an edit.
- Recurrent and hybrid models, MLA with absorbed positions and quantised keys either refuse it or
  round the keys once more with every move.

The peer's server is run with `--cache-reuse 256`, which does shift: `typing.md` says what is left
to evaluate a keystroke with that.
"""


def table(report: dict[str, Any]) -> str:
    """All tables, and what follows from them."""
    cost = report["cost"]
    head = f"{report['date']}, {report['machine']}, commit {report['commit']}"
    lines = ["# FIM layouts", "", head, "", "## Quality", ""]
    lines += ["| model | kind of cursor | layout | places | exact | similar | empty |"]
    lines += ["|---|---|---|---|---|---|---|"]
    for row in report["quality"]:
        shares = [f"{row[key]:.0%}" for key in ("exact", "similar", "empty")]
        cells = [row["model"], row["kind"], row["layout"], str(row["places"]), *shares]
        lines.append(f"| {' | '.join(cells)} |")
    lines += ["", "## Tokens evaluated for each kind of event", ""]
    lines += [f"Means over {cost['places']} places; prompts of {cost['budget']} tokens.", ""]
    lines += [f"- {name}: {meaning}" for name, meaning in cost["events"].items()]
    events = list(cost["events"])
    lines += ["", f"| layout | slots | {' | '.join(events)} |", f"|---|---|{'---|' * len(events)}"]
    for layout, by_slots in cost["tokens"].items():
        for slots, counts in by_slots.items():
            values = " | ".join(f"{counts[event]:g}" for event in events)
            lines.append(f"| {layout} | {slots.split()[0]} | {values} |")
    return "\n".join([*lines, "", SHIFT])


if __name__ == "__main__":
    text = table(json.loads(RESULT.read_text(encoding="utf-8")))
    RESULT.with_suffix(".md").write_text(text, encoding="utf-8")
