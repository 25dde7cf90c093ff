"""Student text: what a report may carry, and that Markdown cannot be forged with it."""

import json
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autograder.text import clean, elide, escape, fence, plain

# Heavy on what breaks reports: markup, fences, controls, surrogates.
HOSTILE = st.text(
    st.one_of(st.characters(), st.characters(categories=["Cs"]), st.sampled_from("`~*_[]<>&\\#|\x00\x1b\r\n\t -+=1.)")),
    max_size=200,
)


@settings(deadline=None)
@given(HOSTILE)
def test_clean_text_encodes_and_holds_no_controls(text: str) -> None:
    """Cleaned text encodes as UTF-8, is no longer than it was, and holds no control character but newline and tab."""
    cleaned = clean(text)
    cleaned.encode()
    assert len(cleaned) <= len(text)
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f]", cleaned)
    assert clean(cleaned) == cleaned


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ("a\x00b", "a\ufffdb"),
        ("\ud800", "\ufffd"),
        ("\x1b[1;31mred\x1b[0m", "red"),
        ("a\r\nb\rc", "a\nb\nc"),
        ("safe\u202eevil", "safe\ufffdevil"),
        ("naïve — 你好\t1\n", "naïve — 你好\t1\n"),
    ],
)
def test_clean_replaces_only_what_is_unsafe(text: str, cleaned: str) -> None:
    """Control characters, surrogates, colours and reordering marks go; letters of any script stay."""
    assert clean(text) == cleaned


@pytest.mark.parametrize("limit", [0, 10, 60, 500, 9_999])
def test_elided_text_fits(limit: int) -> None:
    """A cut text is never longer than its limit, even where the marker alone would be."""
    assert len(elide("x" * 10_000, limit)) <= limit


def test_elision_keeps_both_ends_and_counts_what_is_missing() -> None:
    """The head and the tail survive a cut, and the number between them is the number of characters lost."""
    text = "".join(chr(0x4E00 + i % 1000) for i in range(5_000))
    cut = elide(text, 300)
    head, count, tail = re.split(r"\n\[\.\.\. (\d+) characters left out \.\.\.\]\n", cut)
    assert text.startswith(head)
    assert text.endswith(tail)
    assert len(head) + int(count) + len(tail) == 5_000
    assert elide("short", 300) == "short"


@settings(deadline=None)
@given(HOSTILE)
def test_nothing_inside_a_fence_closes_it(text: str) -> None:
    """No line of a fenced text is a run of backticks as long as the fence."""
    opening, *inside, closing = fence(text).split("\n")
    assert set(opening) == {"`"}
    assert opening == closing
    assert not any(opening in line for line in inside)


def test_a_fence_around_many_backticks_stays_short() -> None:
    """A million backticks do not make a fence of a million more."""
    assert len(fence("`" * 1_000_000)) < 200


@settings(deadline=None)
@given(HOSTILE)
def test_escaped_text_opens_no_markup(text: str) -> None:
    """Escaped text is one line without bare markup."""
    escaped = escape(text)
    assert "\n" not in escaped
    assert not re.search(r"(?<!\\)(?:\\\\)*[`*_\[\]]", escaped.replace("\\\\", ""))
    assert not re.search("[<>]|&(?!amp;|lt;|gt;)", escaped)
    assert not re.match(r"[-+=#>]|\d+[.)]", escaped)


@settings(deadline=None)
@given(HOSTILE)
def test_plain_gives_back_what_escape_took(text: str) -> None:
    """`plain` undoes `escape`, and text that passes through it holds no control character."""
    line = " ".join(clean(text).split())
    assert plain(escape(text)) == line
    assert clean(plain(text)) == plain(text)


def test_plain_indents_code_and_drops_emphasis() -> None:
    """A code block is indented without its fences, and its content is not unescaped."""
    markdown = f"**Expected** 3 \\* 4\n\n{fence('a &lt; **b**')}\n\nafter"
    assert plain(markdown) == "Expected 3 * 4\n\n    a &lt; **b**\n\nafter"


def test_plain_makes_no_control_characters_from_entities() -> None:
    """A student's `&#27;` does not become an escape sequence in a terminal."""
    assert "\x1b" not in plain("&#27;[31m &#x1b;[31m")


def test_cleaned_text_survives_json() -> None:
    """What was cleaned comes back from JSON as it went in."""
    text = clean("\ud800\x00\u2028ok")
    assert json.loads(json.dumps(text, ensure_ascii=False).encode()) == text
