"""Part `dropout`: the two dropout modules on their own. 10 points."""

import pytest
import torch
from cnn_student import build, check_rate, layer_name
from gradescope_utils.autograder_utils.decorators import number, tags, weight

from autograder.errors import StudentError
from autograder.suite import check
from autograder.suite.proxy import Student

both = pytest.mark.parametrize("name", ["ModuleDropout", "FunctionalDropout"])


def _values(seed: int, *shape: int) -> torch.Tensor:
    """Values away from zero, so that a dropped one can be told."""
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(shape, generator=generator) + 0.5


@weight(0.5)
@number("3.1")
@tags("dropout", "shape")
@both
def test_shape(student: Student, seed: int, name: str) -> None:
    """Dropout keeps the shape and dtype of what it is given."""
    model = build(student, name, p=0.5)
    for shape in ((7,), (3, 10), (2, 4, 5, 6)):
        output = model(_values(seed, *shape))
        check.shape(output, shape)
        check.dtype(output)


@weight(1)
@number("3.2")
@tags("dropout", "values")
@both
def test_values(student: Student, seed: int, name: str) -> None:
    """In train mode dropout zeroes values and keeps the others in proportion; its input is left unchanged."""
    model = build(student, name, p=0.5).train()
    values = _values(seed, 200, 100)
    output = model(values)
    check.shape(output, (200, 100))
    ratio = output.double() / values.double()
    kept = ratio.abs() > 1e-6
    check.that(
        bool(kept.any()),
        "Expected some values to be kept in train mode; all are zero.",
    )
    factors = ratio[kept]
    check.that(
        float(factors.max() - factors.min()) < 1e-4,
        f"Expected every value that is kept to be scaled by one factor, got factors from {float(factors.min()):.4g} to "
        f"{float(factors.max()):.4g}.",
        "Dropout multiplies by the same 1 / (1 - p) throughout.",
    )
    after = check.tensor(model.verb("input_after", values))
    check.that(
        bool(torch.equal(after, values)),
        f"Expected `{name}` to leave its input unchanged; it wrote into it.",
        "Do not use `inplace=True` here.",
    )


@weight(1)
@number("3.3")
@tags("dropout", "dropout")
@both
def test_eval_mode(student: Student, seed: int, name: str) -> None:
    """In eval mode dropout gives back what it is given, also after train mode."""
    model = build(student, name, p=0.5)
    values = _values(seed, 50, 40)
    for _ in range(2):
        check.close(
            model.eval()(values),
            values.double(),
            "the output in eval mode",
            tolerance=1e-6,
            causes=[
                ("the output is scaled in eval mode; dropout scales what it keeps in train mode instead", factor)
                for factor in (lambda: values.double() * 0.5, lambda: values.double() * 2)
            ],
            help="Dropout must be silent in eval mode: `F.dropout(x, self.p, training=self.training)`.",
        )
        model.train()(values)


@weight(1.5)
@number("3.4")
@tags("dropout", "dropout")
@both
def test_rate(student: Student, seed: int, name: str) -> None:
    """In train mode dropout drops at rate p, anew on every call, and scales what it keeps by 1 / (1 - p)."""
    values = _values(seed, 100, 100)
    for p in (0.5, 0.2):
        model = build(student, name, p=p).train()
        output, again = model(values), model(values)
        check.shape(output, (100, 100))
        check_rate(int((output != 0).sum()), output.numel(), p, f"your `{name}(p={p})`")
        factors = (output / values)[output != 0].double()
        check.that(
            not factors.numel() or bool((factors - 1 / (1 - p)).abs().max() < 1e-3),
            f"Expected what `{name}(p={p})` keeps to be scaled by 1 / (1 - p) = {1 / (1 - p):g}, got {float(factors.mean()):.4g}.",
            "Dropout scales in train mode, so that nothing need change in eval mode.",
        )
        check.that(
            not bool(torch.equal(output, check.tensor(again))),
            "Expected other values to be dropped on each call; the same ones were.",
            "Is the generator seeded in `forward`?",
        )


@weight(1)
@number("3.5")
@tags("dropout", "style")
def test_module_style(student: Student, seed: int) -> None:
    """ModuleDropout goes through nn.Dropout."""
    try:
        ran = build(student, "ModuleDropout", p=0.5).train().verb("trace", _values(seed, 4, 4))
        layers = ran["layers"]
    except StudentError:
        # what does not run is judged above; its source tells its style
        layers = [name for name in student.calls_in_source("ModuleDropout") if name.startswith("torch.nn.Dropout")]
    check.that(
        any(layer.rsplit(".", 1)[1].startswith("Dropout") for layer in layers),
        f"Expected `forward` to call an nn.Dropout layer; it called {_listed(layers[1:])}.",
        "Make `nn.Dropout(p)` in `__init__` and call it in `forward`.",
    )


@weight(1)
@number("3.6")
@tags("dropout", "style")
def test_functional_style(student: Student, seed: int) -> None:
    """FunctionalDropout goes through F.dropout, without an nn.Dropout."""
    try:
        model = build(student, "FunctionalDropout", p=0.5).train()
        ran = model.verb("trace", _values(seed, 4, 4))
        names = [operation for operation, _ in ran["operations"]]
        used = [*ran["layers"], *(base for part in model.verb("structure") for base in part["bases"])]
    except StudentError:
        # likewise
        names = used = sorted(student.calls_in_source("FunctionalDropout"))
    layers = [name for name in used if name.startswith("torch.nn.") and name.rsplit(".", 1)[1].startswith("Dropout")]
    check.that(not layers, f"Expected no nn.Dropout in functional style; there is `{layer_name(layers)}`.")
    check.that(
        any(name.rsplit(".", 1)[-1] == "dropout" for name in names),
        f"Expected `forward` to call `F.dropout`; it called {_listed(names)}.",
        "Call `F.dropout(x, self.p, training=self.training)`.",
    )


def _listed(names: list[str]) -> str:
    return ", ".join(f"`{name}`" for name in names[:5]) or "nothing"
