"""The result of `layouts.py report` as Markdown tables.

python tests/benchmarks/layout_table.py    # write results/layouts.md again from layouts.json
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
{measured}
- Recurrent and hybrid models, MLA with absorbed positions and quantised keys either refuse it or
  round the keys once more with every move.

The peer's server is run with `--cache-reuse 256`, which does shift: `typing.md` says what is left
to evaluate a keystroke with that.
"""


MEASURED = """\
- Measured at {places} places (`make bench-shifting`): with {lines} lines deleted right below the
  cursor, shifting spares {saved:.0f} tokens of {prompt}. The model then says the same line at
  {same} of {places} places, and finds what stands there less likely by {lost:.2f} nats on average,
  by more than one at {worse} places (more likely by that at {better}). With lines deleted above the
  cursor it spares {above_saved:.0f} tokens, and {above_same} of {places} lines are the same. All
  figures: `shifting.json`. So the same text would be answered otherwise by how it came about, and
  on average no better; what would be spared is evaluated ahead, while the user moves and types.
"""


def measured() -> str:
    """What shifted cells do to answers, in words, by what `shifting.py` has kept."""
    shifting = json.loads(RESULT.with_name("shifting.json").read_text(encoding="utf-8"))
    below, above = shifting["suffix"], shifting["prefix"]
    return MEASURED.format(
        places=below["places"],
        lines=shifting["settings"]["deleted_lines"],
        saved=below["saved_tokens_mean"],
        prompt=shifting["settings"]["prompt_tokens"],
        same=below["same_greedy_line"],
        lost=below["lost_logprob_mean"],
        worse=below["worse_by_a_nat"],
        better=below["better_by_a_nat"],
        above_saved=above["saved_tokens_mean"],
        above_same=above["same_greedy_line"],
    ).rstrip()


def table(report: dict[str, Any]) -> str:
    """All tables, and what follows from them."""
    cost = report["cost"]
    machine = report["machine"]
    if isinstance(machine, dict):
        machine = f"{machine['cpu']}, {machine['cores']} cores"
    head = f"{report['date']}, {machine}, commit {report['commit']}"
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
    return "\n".join([*lines, "", SHIFT.format(measured=measured())])


if __name__ == "__main__":
    text = table(json.loads(RESULT.read_text(encoding="utf-8")))
    RESULT.with_suffix(".md").write_text(text, encoding="utf-8")
