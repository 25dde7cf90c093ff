"""A submission's source as messages need it: places, lines, likely names, and what a definition calls."""

from pathlib import Path

from autograder.intake import read_submission
from autograder.intake.script import Script

SOURCE = """import torch
import torch.nn as layers
from torch.nn.functional import dropout as drop

class ModuleDropOut(layers.Module):
    def __init__(self):
        super().__init__()
        self.layer = layers.Dropout(0.5)

class FunctionalDropout(layers.Module):
    def forward(self, x):
        return drop(x, training=torch.is_grad_enabled())
"""


def _script(folder: Path, source: str = SOURCE) -> Script:
    path = folder / "submission.py"
    path.write_text(source, encoding="utf-8")
    return Script(read_submission(path))


def test_places_and_lines_are_the_students(tmp_path: Path) -> None:
    """A line is named by the student's file and shown as it stands there; a line that is not there is empty."""
    script = _script(tmp_path)
    assert script.place("submission.py", 8) == "submission.py, line 8"
    assert script.line("submission.py", 8) == "self.layer = layers.Dropout(0.5)"
    assert script.line("submission.py", 800) == ""
    assert script.line("elsewhere.py", 1) == ""


def test_calls_are_resolved_through_import_aliases(tmp_path: Path) -> None:
    """What a definition calls or builds on is named in full, whatever it was imported as."""
    script = _script(tmp_path)
    assert {"torch.nn.Module", "torch.nn.Dropout"} <= script.calls("ModuleDropOut")
    assert "torch.nn.functional.dropout" in script.calls("FunctionalDropout")
    assert "torch.nn.Dropout" not in script.calls("FunctionalDropout")
    assert script.calls("Nothing") == frozenset()


def test_a_missing_name_is_explained_by_the_likeliest_other(tmp_path: Path) -> None:
    """A name that is spelt otherwise is pointed at with its line; one that is nowhere is said to be."""
    script = _script(tmp_path)
    names = frozenset({"ModuleDropOut", "FunctionalDropout"})
    near = script.explain_missing("ModuleDropout", names)
    assert "submission.py does not define `ModuleDropout`" in near
    assert "line 5 defines `ModuleDropOut`" in near
    far = script.explain_missing("accuracy", names)
    assert "does not define `accuracy`" in far
    assert "defines `" not in far


def test_what_cannot_be_walked_calls_nothing(tmp_path: Path) -> None:
    """An expression too deep to be written out is passed over, not raised."""
    deep = "a" + ".b" * 900
    script = _script(tmp_path, f"def f():\n    {deep}()\n    open()\n")
    assert "open" in script.calls("f")
