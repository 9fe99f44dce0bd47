"""Show the lists in distsim's docstrings as lists: "X : (n, p)  activations"; and errors in bold: "ValueError: …"."""

import re
from typing import Any

import griffe

ITEM = re.compile(r"^(\w[\w, ]*?) : (.+)$")
ERROR = re.compile(r"\b([A-Z]\w*(?:Error|Mismatch|Drift|Store|InUse|Failed|Slow|Similarity)): ")


class Lists(griffe.Extension):
    """An extension that rewrites docstrings before they are shown."""

    def on_instance(self, *, obj: griffe.Object, **_: Any) -> None:
        """Rewrite one docstring."""
        if obj.docstring is not None:
            obj.docstring.value = listed(obj.docstring.value)


def listed(text: str) -> str:
    """Return a docstring as Markdown."""
    lines: list[str] = []
    in_item = False
    for line in text.splitlines():
        item = ITEM.match(line)
        ends = in_item and not item and not line.startswith(" ")
        if ends or (item and not in_item):
            lines.append("")
        lines.append(f"- **{item[1]}**: {item[2]}" if item else line)
        in_item = bool(item) or (in_item and not ends)
    return ERROR.sub(r"**\1**: ", "\n".join(lines))
