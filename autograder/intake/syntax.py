"""Does Python read this source? Parses, never compiles: compiling can take exponential memory, parsing cannot."""

import ast
import codecs
import io
import tokenize
import warnings

from autograder.intake.wording import shown

__all__ = ["parse", "problem"]

# Their decoders take time quadratic in the length.
_SLOW_CODECS = frozenset({"punycode", "idna"})


def parse(source: str | bytes) -> ast.Module:
    """Parse as `ast.parse` does, without warnings.

    Raises:
        SyntaxError: Python cannot read it, for whatever reason.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return ast.parse(source)
    except (RecursionError, MemoryError):
        raise SyntaxError("too deeply nested for Python") from None
    except (ValueError, LookupError) as error:
        raise SyntaxError(str(error)) from error


def problem(data: bytes, name: str) -> str | None:
    """Say why Python cannot read a source file, or return None where it can.

    Args:
        data: The file's bytes.
        name: Its name, for the sentence.

    Returns:
        A clause without a full stop, such as "submission.py, line 3: invalid syntax, in `x = = 1`".
    """
    name = shown(name)
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return f"{name} is saved as UTF-16, which Python does not read: save it as UTF-8"
    if (at := data.find(b"\0")) >= 0:
        line = data.count(b"\n", 0, at) + 1
        return f"{name}, line {line}: holds a null byte, so it is not Python text"
    try:
        encoding, _ = tokenize.detect_encoding(io.BytesIO(data).readline)
        if codecs.lookup(encoding).name in _SLOW_CODECS:
            return f"{name}, line 1: the coding {encoding} is not for source files: save the file as UTF-8"
        parse(data)
        data.decode(encoding)
    except SyntaxError as error:
        return _sentence(error, data, name)
    except (ValueError, LookupError) as error:
        return f"{name} cannot be decoded ({shown(str(error))}): save it as UTF-8"
    return None


def _sentence(error: SyntaxError, data: bytes, name: str) -> str:
    line = error.lineno or 0
    rows = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
    text = error.text or (rows[line - 1].decode(errors="replace") if 0 < line <= len(rows) else "")
    where = f"{name}, line {line}" if line else name
    clause = f"{where}: {shown(error.msg or 'invalid syntax', 200)}"
    if text.strip():
        clause += f", in `{shown(text)}`"
    if text.lstrip().startswith(("!", "%")):
        clause += " (notebook commands do not belong into a .py file: remove them)"
    return clause
