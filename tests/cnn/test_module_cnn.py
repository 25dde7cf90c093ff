"""Part `module_cnn`: the network built from `nn` modules. 26 points."""

import cnn_checks
from cnn_student import build
from gradescope_utils.autograder_utils.decorators import number, tags, weight

from autograder.suite import check
from autograder.suite.proxy import Student

NAME = "ModuleCNN"


@weight(4)
@number("1.1")
@tags("module_cnn", "shape")
def test_shape(student: Student, seed: int) -> None:
    """ModuleCNN gives N rows of 10 logits for a batch of N images, for any N."""
    cnn_checks.shape(student, NAME, seed)


@weight(3)
@number("1.2")
@tags("module_cnn", "registration")
def test_registration(student: Student) -> None:
    """ModuleCNN registers its six weight tensors, and nothing else."""
    cnn_checks.registered(student, NAME)


@weight(2)
@number("1.3")
@tags("module_cnn", "registration")
def test_state_dict(student: Student, seed: int) -> None:
    """ModuleCNN computes with the weights that load_state_dict puts in."""
    cnn_checks.loads(student, NAME, seed)


@weight(4)
@number("1.4")
@tags("module_cnn", "values")
def test_values(student: Student, seed: int) -> None:
    """ModuleCNN computes the logits that the assignment describes."""
    cnn_checks.values(student, NAME, seed)


@weight(1)
@number("1.5")
@tags("module_cnn", "values")
def test_input(student: Student, seed: int) -> None:
    """ModuleCNN leaves its input unchanged."""
    cnn_checks.input_kept(student, NAME, seed)


@weight(2)
@number("1.6")
@tags("module_cnn", "dropout")
def test_eval_mode(student: Student, seed: int) -> None:
    """ModuleCNN drops nothing in eval mode."""
    cnn_checks.silent(student, NAME, seed)


@weight(2)
@number("1.7")
@tags("module_cnn", "dropout")
def test_train_mode(student: Student, seed: int) -> None:
    """ModuleCNN drops features at rate p in train mode."""
    cnn_checks.drops(student, NAME, seed)


@weight(4)
@number("1.8")
@tags("module_cnn", "gradients")
def test_gradients(student: Student, seed: int) -> None:
    """The gradient of a loss reaches every parameter of ModuleCNN, and is right."""
    cnn_checks.gradients(student, NAME, seed)


@weight(2)
@number("1.9")
@tags("module_cnn", "style")
def test_style(student: Student) -> None:
    """ModuleCNN keeps its weights in nn.Conv2d and nn.Linear layers."""
    parts = build(student, NAME, p=0.5).verb("structure")
    layers = [part for part in parts if part["parameters"]]
    for part in layers:
        check.that(
            any(base.endswith((".Conv2d", ".Linear")) for base in part["bases"]),
            f"Expected only nn.Conv2d and nn.Linear layers to own weights; `{part['path'] or NAME}` owns {part['parameters'][:4]}.",
            "In module style the layers own the weights.",
        )
    kinds = [
        next(base.rsplit(".", 1)[1] for base in part["bases"] if base.endswith((".Conv2d", ".Linear")))
        for part in layers
    ]
    check.that(
        sorted(kinds) == ["Conv2d", "Conv2d", "Linear"],
        f"Expected two nn.Conv2d and one nn.Linear on `self`, got {kinds or 'none'}.",
        "Make each layer in `__init__` and keep it on `self`.",
    )


@weight(2)
@number("1.10")
@tags("module_cnn", "gpu")
def test_gpu(student: Student, seed: int) -> None:
    """ModuleCNN moves to a GPU whole and runs there."""
    cnn_checks.gpu(student, NAME, seed)
