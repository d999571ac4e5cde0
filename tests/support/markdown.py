"""What a Markdown page contains: code blocks, links, and what is between backticks."""

import re
from dataclasses import dataclass

_BLOCK = re.compile(
    r"^(?:<!-- not run: (?P<reason>[^>]*?) -->\n)?```(?P<language>\w*)\n(?P<code>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
_LINK = re.compile(r"\]\(([^)\s]+)\)")


@dataclass(frozen=True)
class Block:
    """A fenced block: the line it begins at, and why the tests do not run it, if they do not."""

    line: int
    language: str
    code: str
    reason: str | None


def blocks(path):
    """Return the fenced blocks of a page, in order."""
    text = path.read_text(encoding="utf-8")
    found = [
        Block(
            line=text.count("\n", 0, match.start("language")) + 1,
            language=match["language"],
            code=match["code"],
            reason=match["reason"],
        )
        for match in _BLOCK.finditer(text)
    ]
    assert 2 * len(found) == len(re.findall(r"^\s*```", text, re.MULTILINE)), f"{path}: odd fences"
    return found


def commands(path):
    """Return the lines of a page's bash blocks, each with its number; continued lines are one."""
    lines = []
    for block in blocks(path):
        if block.language == "bash":
            joined = block.code.replace("\\\n", " ")
            lines += [
                (block.line + number, line) for number, line in enumerate(joined.split("\n"), 1)
            ]
    return lines


def links(path):
    """Return the targets of a page's links and pictures, outside of code."""
    text = _BLOCK.sub("", path.read_text(encoding="utf-8"))
    return _LINK.findall(re.sub(r"`[^`\n]*`", "", text))


def inline_code(path):
    """Return what stands between single backticks, outside of blocks."""
    return re.findall(r"`([^`\n]+)`", _BLOCK.sub("", path.read_text(encoding="utf-8")))
