"""How intake's sentences show what a student wrote: short, on one line, and without control characters."""

from collections.abc import Collection

__all__ = ["listed", "shown"]


def shown(text: str, width: int = 80) -> str:
    """Make untrusted text fit to stand in a sentence: printable, on one line, cut to `width` characters."""
    text = text.strip()
    text = text if len(text) <= width else text[: width - 3] + "..."
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def listed(names: Collection[str], most: int = 5) -> str:
    """Write names as "a, b and c", or "a, b and 7 more" where there are more than `most`."""
    words = [shown(name) for name in list(names)[:most]]
    if len(names) > most:
        words.append(f"{len(names) - most} more")
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
