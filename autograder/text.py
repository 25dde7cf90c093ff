"""Layer 0: student text made safe to show. Suite messages and reporters pass what a submission produced through."""

import re

__all__ = ["clean", "elide", "escape", "fence", "plain"]

# Colour codes go whole, so that "\x1b[31m" does not leave "[31m" behind.
_ANSI = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]")
# Control characters but \n and \t, lone surrogates, and the controls that reorder what a reader sees.
_UNSAFE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\u202a-\u202e\u2066-\u2069\ufffe\uffff]")
_SPECIAL = re.compile(r"[\\`*_{}\[\]#|~]")
_HTML = {"&": "&amp;", "<": "&lt;", ">": "&gt;"}
_ENTITIES = {entity: character for character, entity in _HTML.items()}
# What would open a list or underline a heading, had it come first on a line.
_OPENING = re.compile(r"^(\d*)([-+=.)])")
_ESCAPED = re.compile(r"\\([!-/:-@\[-`{-~])")
_STRONG = re.compile(r"(?<!\\)\*\*(.+?)(?<!\\)\*\*")
_LONGEST_FENCE = 24


def clean(text: str) -> str:
    r"""Replaces what no report may carry: control characters, lone surrogates, reordering marks.

    Args:
        text: Any string.

    Returns:
        The text with `\n` line ends, without colour codes, and with U+FFFD for each unsafe character. It encodes as
        UTF-8, and is never longer than `text`.
    """
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    return _UNSAFE.sub("\ufffd", _ANSI.sub("", text))


def elide(text: str, limit: int) -> str:
    """Cuts the middle out of a long text and says how much is missing.

    Args:
        text: Any string.
        limit: The longest result, in characters.

    Returns:
        `text` itself where it fits, else its head and its tail around a line that counts what was left out.
    """
    if len(text) <= limit:
        return text
    marker = "\n[... {} characters left out ...]\n"
    keep = limit - len(marker.format(len(text)))
    if keep <= 0:
        return text[: max(limit, 0)]
    head = keep - keep // 3
    tail = keep - head
    return text[:head] + marker.format(len(text) - keep) + text[len(text) - tail :]


def fence(text: str) -> str:
    """Sets text as a Markdown code block that nothing inside it can close.

    Args:
        text: Any string; cleaned here. Cut it first: this keeps its whole length.

    Returns:
        The text between two fences of backticks longer than any run of backticks in it.
    """
    # Without a bound, a run of a million backticks would ask for two more of them.
    text = re.sub(rf"`{{{_LONGEST_FENCE},}}", "`" * (_LONGEST_FENCE - 1) + "\u2026", clean(text))
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    marks = "`" * max(3, longest + 1)
    return f"{marks}\n{text.rstrip()}\n{marks}"


def escape(text: str) -> str:
    r"""Makes text that stands within a Markdown sentence read as itself.

    Args:
        text: Any string; cleaned here, and put on one line.

    Returns:
        The text with Markdown's and HTML's special characters escaped, so that it opens no markup, link or list.
    """
    line = " ".join(clean(text).split())
    line = _SPECIAL.sub(lambda found: "\\" + found[0], line)
    line = re.sub("[&<>]", lambda found: _HTML[found[0]], line)
    return _OPENING.sub(r"\1\\\2", line)


def plain(markdown: str) -> str:
    """Turns Markdown of the kind that `escape` and `fence` make into text for a terminal or a log.

    Args:
        markdown: A test's output; cleaned here.

    Returns:
        The text with code blocks indented, and without fences, emphasis and escapes; lists and code spans stay.
    """
    lines: list[str] = []
    marks = ""
    for line in clean(markdown).split("\n"):
        opening = re.match("`{3,}", line)
        if marks and line.strip() == marks:
            marks = ""
        elif marks:
            lines.append(f"    {line}".rstrip())
        elif opening:
            marks = opening[0]
        else:
            lines.append(_unescaped(_STRONG.sub(r"\1", line)))
    return "\n".join(lines).strip("\n")


def _unescaped(line: str) -> str:
    # These three entities alone: "&#27;" would come back as a control character.
    line = re.sub("&(?:amp|lt|gt);", lambda found: _ENTITIES[found[0]], line)
    return _ESCAPED.sub(r"\1", line)
