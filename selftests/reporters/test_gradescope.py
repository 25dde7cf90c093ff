"""results.json: valid whatever the report holds, refused wherever it is wrong, never lost."""

import copy
import json
import math
from importlib import resources
from pathlib import Path
from typing import Any, get_args

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autograder.errors import MachineError
from autograder.report import Leaderboard, Outcome, Report, TestResult, Visibility
from autograder.reporters import gradescope
from autograder.reporters.gradescope import to_gradescope, validate, write_results

SCHEMA = json.loads(resources.files("autograder.reporters").joinpath("gradescope.schema.json").read_text("utf-8"))
INDEPENDENT = jsonschema.Draft202012Validator(SCHEMA)
HOSTILE_TEXTS = [
    "",
    "\x00",
    "\ud800\udfff",
    "[red]x[/red]",
    "```\n# forged\n```",
    "<script>alert(1)</script>",
    "\x1b[31m",
]

text = st.one_of(
    st.sampled_from(HOSTILE_TEXTS), st.text(st.characters(categories=["L", "P", "S", "C", "Cs"]), max_size=40)
)
number = st.one_of(st.floats(), st.integers(-(10**400), 10**400))
data = st.dictionaries(
    text,
    st.recursive(st.one_of(st.none(), number, text, st.binary()), lambda inner: st.lists(inner, max_size=3)),
    max_size=3,
)
results = st.builds(
    TestResult,
    id=text,
    name=text,
    number=text,
    score=number,
    max_score=number,
    outcome=st.sampled_from(get_args(Outcome)),
    output=text,
    tags=st.lists(text, max_size=3).map(tuple),
    visibility=st.sampled_from(get_args(Visibility)),
    seconds=number,
    staff=data,
)
reports = st.builds(
    Report,
    assignment=text,
    tests=st.lists(results, max_size=4).map(tuple),
    problems=st.lists(text, max_size=3).map(tuple),
    notes=st.lists(text, max_size=3).map(tuple),
    leaderboard=st.lists(st.builds(Leaderboard, name=text, value=st.one_of(number, text)), max_size=2).map(tuple),
    printed=text,
    seconds=number,
    staff=data,
    complete=st.booleans(),
)


def result(**changes: Any) -> TestResult:
    """One ordinary failed test, changed."""
    fields: dict[str, Any] = {
        "id": "t.py::t",
        "name": "N images",
        "number": "1.3",
        "max_score": 4.0,
        "outcome": "failed",
    }
    return TestResult(**{**fields, **changes})


def report(*tests: TestResult, **changes: Any) -> Report:
    """A report of the given tests."""
    return Report(assignment="cnn", tests=tests, **changes)


@settings(deadline=None, max_examples=200)
@given(reports)
def test_any_report_gives_valid_results(hostile: Report) -> None:
    """Whatever a report holds, its results fit the schema, both ways of checking, and survive strict JSON."""
    mapped = to_gradescope(hostile)
    validate(mapped)
    INDEPENDENT.validate(mapped)
    assert json.loads(json.dumps(mapped, allow_nan=False, ensure_ascii=False).encode()) == mapped


def test_maps_every_field() -> None:
    """An ordinary report comes out with the fields that Gradescope shows."""
    mapped = to_gradescope(
        report(
            result(id="a", outcome="passed", score=4.0, tags=("module_cnn", "shape"), seconds=0.25, staff={"pid": 7}),
            result(id="b", score=1.5, output="Expected `3`.", visibility="after_due_date"),
            leaderboard=(Leaderboard(name="accuracy", value=0.97),),
            printed="hello",
            seconds=3.5,
            staff={"seed": 1},
        )
    )
    assert mapped["score"] == 5.5
    assert mapped["execution_time"] == 3.5
    assert mapped["stdout_visibility"] == "hidden"
    assert mapped["leaderboard"] == [{"name": "accuracy", "value": 0.97, "order": "desc"}]
    assert mapped["extra_data"]["seed"] == 1
    assert mapped["extra_data"]["printed"] == "hello"
    first, second = mapped["tests"]
    assert first == {
        "score": 4.0,
        "max_score": 4.0,
        "status": "passed",
        "name": "N images",
        "number": "1.3",
        "output": "",
        "output_format": "md",
        "tags": ["module_cnn", "shape"],
        "visibility": "visible",
        "extra_data": {"pid": 7, "id": "a", "outcome": "passed", "seconds": 0.25},
    }
    assert (second["status"], second["score"], second["output"]) == ("failed", 1.5, "Expected `3`.")
    assert second["visibility"] == "after_due_date"
    assert "leaderboard" not in to_gradescope(report())


@pytest.mark.parametrize(("outcome", "prefix"), [("not_graded", "[not graded] "), ("not_reached", "[not reached] ")])
def test_a_test_without_verdict_says_so(outcome: Outcome, prefix: str) -> None:
    """What was not judged scores 0, says so in its name, and explains itself to the student at both places."""
    mapped = to_gradescope(report(result(outcome=outcome, score=4.0, output="The reference is missing.")))
    shown = mapped["tests"][0]
    assert mapped["score"] == 0.0
    assert (shown["score"], shown["max_score"], shown["status"]) == (0.0, 4.0, "failed")
    assert shown["name"] == f"{prefix}N images"
    assert "verdict" in shown["output"]
    assert shown["output"].endswith("The reference is missing.")
    assert ("**not your submission's fault**" in shown["output"]) == (outcome == "not_graded")
    assert "N images" in mapped["output"]
    assert mapped["extra_data"]["ungraded"] == ["t.py::t"]


@pytest.mark.parametrize("visibility", ["hidden", "after_due_date", "after_published"])
def test_the_summary_does_not_name_hidden_tests(visibility: Visibility) -> None:
    """A hidden test that was not graded leaves no trace in what students see above the tests."""
    mapped = to_gradescope(report(result(outcome="not_graded", visibility=visibility)))
    assert mapped["output"] == ""
    assert mapped["tests"][0]["visibility"] == visibility


@pytest.mark.parametrize("score", [math.nan, math.inf, -math.inf, 1e300, 10**400])
@pytest.mark.parametrize("field", ["score", "max_score"])
def test_points_that_are_no_number_are_not_graded(field: str, score: float) -> None:
    """A NaN or infinite score is the suite's fault: not graded, told to staff; the other tests keep their points."""
    bad = result(outcome="passed", **{field: score})
    mapped = to_gradescope(report(bad, result(outcome="passed", score=2.0)))
    shown = mapped["tests"][0]
    assert shown["name"].startswith("[not graded] ")
    assert shown["score"] == 0.0
    assert "points_refused" in shown["extra_data"]
    assert mapped["score"] == 2.0


def test_extra_credit_is_kept() -> None:
    """A positive score with a max_score of 0 adds to the total."""
    mapped = to_gradescope(report(result(outcome="passed", score=3.0, max_score=0.0)))
    assert mapped["score"] == 3.0
    assert mapped["tests"][0]["score"] == 3.0


def test_ten_megabytes_of_output_are_cut() -> None:
    """Long text is cut in the middle with its ends kept, well below what the platform would cut."""
    long = "HEAD" + "`x\x00" * 3_400_000 + "TAIL"
    mapped = to_gradescope(
        report(
            result(output=long, name=long, staff={"log": long}), printed=long, problems=(long,) * 30, notes=(long,) * 30
        )
    )
    validate(mapped)
    shown = mapped["tests"][0]
    assert len(shown["output"]) < 21_000
    assert "HEAD" in shown["output"][:100]
    assert "TAIL" in shown["output"][-100:]
    assert "characters left out" in shown["output"]
    assert len(mapped["output"]) < 60_000
    assert len(json.dumps(mapped)) < 400_000


def test_a_cut_cannot_let_student_text_out_of_its_block() -> None:
    """Markdown that is too long is shown as one code block, so that a cut through a fence forges nothing."""
    markdown = "````\n" + "x\n" * 20_000 + "```\n**Passed**: 100 of 100\n````\n"
    output = to_gradescope(report(result(output=markdown)))["tests"][0]["output"]
    opening, *inside, closing = output.split("\n")
    assert set(opening) == {"`"}
    assert opening == closing
    assert not any(line.startswith(opening) for line in inside)


def test_problems_come_first_and_forge_no_markup() -> None:
    """Problems stand before what was not graded and the notes; a file name with markup in it reads as itself."""
    output: str = to_gradescope(
        report(
            result(outcome="not_graded", name="[name](x)"),
            problems=("Nothing found in [a](javascript:x) <b>.\n  line 3\n```\n# forged",),
            notes=("`matplotlib` is missing here.",),
        )
    )["output"]
    assert output.startswith("**Problem:** Nothing found in \\[a\\](javascript:x) &lt;b&gt;.\n\n```")
    assert output.index("Problem") < output.index("Not graded") < output.index("Note:")
    assert "\\[name\\](x)" in output
    assert "\n# forged" not in output.split("```")[2]


def test_a_problem_keeps_its_code_block() -> None:
    """A problem that came as Markdown, a sentence and a block, is shown as a sentence and one block."""
    output = to_gradescope(report(problems=("Importing your file raised \\_Error.\n\n```\nline 3\n    x\n```",)))[
        "output"
    ]
    assert output == "**Problem:** Importing your file raised \\_Error.\n\n```\nline 3\n    x\n```"


@pytest.mark.parametrize(
    "broken",
    [
        {"tests.0.status": "maybe"},
        {"tests.0.number": 1},
        {"tests.0.output": ["x"]},
        {"tests.0.output": "x" * 100_001},
        {"tests.0.visibility": "secret"},
        {"tests.0.output_format": "markdown"},
        {"tests.0.max_score": -1},
        {"tests.0.max_score": "4"},
        {"tests.0.score": math.nan},
        {"tests.0.score": True},
        {"tests.0.tags": "shape"},
        {"tests.0.points": 4},
        {"score": math.inf},
        {"score": None},
        {"execution_time": "3.5"},
        {"execution_time": -1},
        {"output_format": "MD"},
        {"visibility": "Visible"},
        {"stdout_visibility": True},
        {"extra_data": []},
        {"leaderboard": [{"name": "accuracy"}]},
        {"leaderboard": [{"name": "accuracy", "value": 1, "order": "up"}]},
        {"tests": {}},
        {"results": 1},
    ],
    ids=str,
)
def test_the_schema_refuses(broken: dict[str, Any]) -> None:
    """Each kind of results that would break a run, or be ignored, is refused; so would another validator."""
    mapped = to_gradescope(report(result()))
    validate(mapped)
    wrong = copy.deepcopy(mapped)
    for path, value in broken.items():
        *way, last = path.split(".")
        place: Any = wrong
        for step in way:
            place = place[int(step) if step.isdigit() else step]
        place[last] = value
    with pytest.raises(ValueError, match=r"data|JSON"):
        validate(wrong)
    if not any(isinstance(value, float) for value in broken.values()):  # the encoder's part, not the schema's
        assert not INDEPENDENT.is_valid(wrong)


@pytest.mark.parametrize(
    ("content", "valid"),
    [
        ({}, False),
        ({"tests": []}, False),
        ({"tests": [{"score": 1}, {"name": "x"}]}, False),
        ({"tests": [{"score": 1}]}, True),
        ({"score": 0}, True),
        ({"score": 0, "tests": [{"name": "x"}]}, True),
    ],
)
def test_the_schema_wants_a_score_somewhere(content: dict[str, Any], valid: bool) -> None:
    """Without a score for the whole, every test must carry one."""
    assert INDEPENDENT.is_valid(content) == valid
    if valid:
        validate(content)
    else:
        with pytest.raises(ValueError, match="data"):
            validate(content)


def test_the_schema_is_one() -> None:
    """The published schema is itself valid, names no host of ours, and describes every field."""
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    assert SCHEMA["$id"].startswith("urn:")
    for part in (SCHEMA, SCHEMA["$defs"]["test"], SCHEMA["$defs"]["leaderboard_entry"]):
        assert all(field.get("description") for field in part["properties"].values())


def test_writes_the_file_privately_and_alone(tmp_path: Path) -> None:
    """results.json is readable by its owner alone, replaces an older one, and nothing lies beside it."""
    path = tmp_path / "results.json"
    write_results(report(complete=False), path)
    write_results(report(result(outcome="passed", score=4.0)), path)
    assert json.loads(path.read_bytes())["score"] == 4.0
    assert path.stat().st_mode & 0o777 == 0o600
    assert list(tmp_path.iterdir()) == [path]


def test_results_that_cannot_be_mapped_keep_their_total(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bug in the mapping still leaves a valid file with the total and the reason, and is raised as ours."""
    path = tmp_path / "results.json"
    good = report(result(outcome="passed", score=4.0), result(outcome="passed", score=math.nan))
    monkeypatch.setattr(gradescope, "_summary", lambda *_: 3)  # an output that is not a string
    with pytest.raises(MachineError, match="total"):
        write_results(good, path)
    written = json.loads(path.read_bytes())
    validate(written)
    INDEPENDENT.validate(written)
    assert written["score"] == 4.0
    assert "not of your submission" in written["output"]
    assert "output" in written["extra_data"]["error"]


def test_a_bad_enum_from_the_suite_keeps_the_total(tmp_path: Path) -> None:
    """An unknown visibility is refused, and the total is written all the same."""
    path = tmp_path / "results.json"
    with pytest.raises(MachineError, match="visibility"):
        write_results(report(result(outcome="passed", score=4.0, visibility="secret")), path)
    assert json.loads(path.read_bytes())["score"] == 4.0


def test_an_unwritable_folder_is_the_machines_fault(tmp_path: Path) -> None:
    """A missing folder is one sentence with the path and the remedy."""
    with pytest.raises(MachineError, match=r"gone/results\.json \(No such file or directory\); make its folder"):
        write_results(report(), tmp_path / "gone" / "results.json")
