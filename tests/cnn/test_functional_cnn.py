"""Part `functional_cnn`: the same network from the student's own parameters and `torch.nn.functional`. 34 points."""

import cnn_checks
import cnn_reference as ref
from cnn_student import build, layer_name
from gradescope_utils.autograder_utils.decorators import number, tags, weight

from autograder.errors import StudentError
from autograder.suite import check
from autograder.suite.proxy import Student

NAME = "FunctionalCNN"

CONTAINERS = (".Module", ".ParameterList", ".ParameterDict", ".ModuleList", ".ModuleDict", ".Sequential")


@weight(4)
@number("2.1")
@tags("functional_cnn", "shape")
def test_shape(student: Student, seed: int) -> None:
    """FunctionalCNN gives N rows of 10 logits for a batch of N images, for any N."""
    cnn_checks.shape(student, NAME, seed)


@weight(5)
@number("2.2")
@tags("functional_cnn", "registration")
def test_registration(student: Student) -> None:
    """FunctionalCNN registers its six weight tensors as parameters, and nothing else."""
    cnn_checks.registered(student, NAME)


@weight(3)
@number("2.3")
@tags("functional_cnn", "registration")
def test_state_dict(student: Student, seed: int) -> None:
    """FunctionalCNN computes with the weights that load_state_dict puts in."""
    cnn_checks.loads(student, NAME, seed)


@weight(6)
@number("2.4")
@tags("functional_cnn", "values")
def test_values(student: Student, seed: int) -> None:
    """FunctionalCNN computes the logits that the assignment describes."""
    cnn_checks.values(student, NAME, seed)


@weight(1)
@number("2.5")
@tags("functional_cnn", "values")
def test_input(student: Student, seed: int) -> None:
    """FunctionalCNN leaves its input unchanged."""
    cnn_checks.input_kept(student, NAME, seed)


@weight(3)
@number("2.6")
@tags("functional_cnn", "dropout")
def test_eval_mode(student: Student, seed: int) -> None:
    """FunctionalCNN drops nothing in eval mode."""
    cnn_checks.silent(student, NAME, seed)


@weight(2)
@number("2.7")
@tags("functional_cnn", "dropout")
def test_train_mode(student: Student, seed: int) -> None:
    """FunctionalCNN drops features at rate p in train mode."""
    cnn_checks.drops(student, NAME, seed)


@weight(5)
@number("2.8")
@tags("functional_cnn", "gradients")
def test_gradients(student: Student, seed: int) -> None:
    """The gradient of a loss reaches every parameter of FunctionalCNN, and is right."""
    cnn_checks.gradients(student, NAME, seed)


@weight(2)
@number("2.9")
@tags("functional_cnn", "style")
def test_style(student: Student, seed: int) -> None:
    """FunctionalCNN owns its weights itself: no nn layer with weights, no nn.Dropout."""
    model = build(student, NAME, p=0.5)
    for part in model.verb("structure"):
        layer = next((base for base in part["bases"] if not base.endswith(CONTAINERS)), "")
        owns = [*part["parameters"], *part["buffers"]]
        check.that(
            not layer or not owns,
            f"Expected no layer that owns weights in functional style; `{part['path']}` is an `{layer_name([layer])}` and owns {owns[:4]}.",
            "Keep `nn.Parameter`s on `self` and pass them to `F.conv2d` and `F.linear`.",
        )
        check.that(
            ".dropout." not in layer,
            f"Expected `F.dropout` in functional style; `{part['path']}` is an `{layer_name([layer])}`.",
            "Call `F.dropout(x, self.p, training=self.training)`.",
        )
    try:
        called = model.verb("trace", ref.images(seed, 2))["layers"]
    except StudentError:
        return  # a forward pass that fails is judged under `shape`
    used = [
        layer
        for layer in called
        if layer.startswith(("torch.nn.modules.conv", "torch.nn.modules.linear", "torch.nn.modules.dropout"))
    ]
    check.that(not used, f"Expected functional style; `forward` calls the layer `{layer_name(used)}`.")


@weight(3)
@number("2.10")
@tags("functional_cnn", "gpu")
def test_gpu(student: Student, seed: int) -> None:
    """FunctionalCNN moves to a GPU whole and runs there."""
    cnn_checks.gpu(student, NAME, seed)
