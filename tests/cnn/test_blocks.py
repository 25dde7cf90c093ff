"""Part `blocks`: conv · batch norm · ReLU · max-pool · dropout, as an nn.Sequential and in functional style. 14 points."""

import cnn_blocks as blocks
import cnn_reference as ref
import pytest
from cnn_student import build, check_rate, held, layer_name
from gradescope_utils.autograder_utils.decorators import number, tags, weight

from autograder.errors import StudentError
from autograder.suite import check
from autograder.suite.proxy import Student

both = pytest.mark.parametrize("name", ["module_block", "FunctionalBlock"])


@weight(1)
@number("4.1")
@tags("blocks", "shape")
@both
def test_shape(student: Student, seed: int, name: str) -> None:
    """The block halves height and width and has as many channels as it is asked for."""
    for inside, outside, count, side in ((3, 64, 2, 12), (1, 5, 1, 9), (4, 8, 3, 16)):
        model = build(student, name, inside, outside, p=0.2).eval()
        output = model(ref.images(seed, count, inside, side))
        blocks.check_shape(output, count, outside, side, f"the output of `{name}({inside}, {outside})`")
        check.dtype(output)
    default = build(student, name, p=0.2).eval()(ref.images(seed, 1, 3, 8))
    blocks.check_shape(default, 1, 64, 8, f"the output of `{name}()`")


@weight(1)
@number("4.2")
@tags("blocks", "registration")
def test_module_registration(student: Student) -> None:
    """module_block registers a convolution's and a batch norm's tensors."""
    blocks.registered(student, "module_block")


@weight(2)
@number("4.3")
@tags("blocks", "registration")
def test_functional_registration(student: Student, seed: int) -> None:
    """FunctionalBlock registers weights as parameters and running statistics as buffers."""
    blocks.registered(student, "FunctionalBlock")
    blocks.round_trip(student, "FunctionalBlock", seed)


@weight(1)
@number("4.4")
@tags("blocks", "values")
@both
def test_values(student: Student, seed: int, name: str) -> None:
    """In eval mode the block computes conv, batch norm with the running statistics, ReLU, max-pool."""
    block = blocks.Held(student, name)
    batch = ref.images(seed, 3, block.inside, 8)
    blocks.judge_eval(block, batch, seed)


@weight(1)
@number("4.5")
@tags("blocks", "values")
@both
def test_statistics(student: Student, seed: int, name: str) -> None:
    """In train mode the block normalises by the batch and updates the running statistics; eval mode only reads them."""
    block = blocks.Held(student, name)
    blocks.judge_train(block, ref.images(seed, 4, block.inside, 8), seed)


@weight(1)
@number("4.6")
@tags("blocks", "dropout")
@both
def test_dropout(student: Student, seed: int, name: str) -> None:
    """The block drops at rate p in train mode, and nothing in eval mode."""
    batch = ref.images(seed, 16, 3, 16)
    for p in (0.5, 0.2):
        model = build(student, name, 3, 8, p=p)
        still = check.tensor(model.train().verb("calmly", batch), "the output in train mode")
        output = model(batch)
        check.shape(output, tuple(still.shape), "the output in train mode")
        alive = still.abs() > 1e-3
        check.that(
            int(alive.sum()) > 2000, "Expected the block's output to hold values other than zero; it holds none."
        )
        ratio = output[alive].double() / still[alive].double()
        kept = ratio.abs() > 1e-3
        check_rate(int(kept.sum()), kept.numel(), p, f"your `{name}(p={p})`")
        check.that(
            bool((ratio[kept] - 1 / (1 - p)).abs().max() < 1e-2),
            f"Expected what dropout keeps to be scaled by {1 / (1 - p):g}, got {float(ratio[kept].mean()):.3g} on average.",
            "Dropout comes last, once, after the pooling.",
        )
        quiet = check.tensor(model.eval().verb("calmly", batch), "the output in eval mode")
        check.that(
            check.matches(check.tensor(model(batch)), quiet.double(), 1e-5 * (1 + float(quiet.abs().max()))),
            "Expected nothing to be dropped in eval mode; the output differs from the one without dropout.",
            "Pass `training=self.training` to `F.dropout`.",
        )


@weight(0.5)
@number("4.7")
@tags("blocks", "style")
def test_module_style(student: Student) -> None:
    """module_block returns an nn.Sequential of nn layers."""
    parts = build(student, "module_block", 3, 8, p=0.2).verb("structure")
    check.that(
        any(base.endswith(".Sequential") for base in parts[0]["bases"]),
        f"Expected an nn.Sequential, got {parts[0]['bases'][:1]}.",
    )
    for part in parts:
        check.that(
            not part["parameters"]
            or any(base.startswith("torch.nn.modules.") and not base.endswith(".Module") for base in part["bases"]),
            f"Expected nn layers to own the weights in module style; `{part['path'] or 'the block'}` owns {part['parameters'][:4]}.",
        )


@weight(0.5)
@number("4.8")
@tags("blocks", "style")
def test_functional_style(student: Student, seed: int) -> None:
    """FunctionalBlock owns its tensors itself: no nn layer with weights, no nn.Dropout."""
    model = build(student, "FunctionalBlock", 3, 8, p=0.2)
    try:
        called = model.train().verb("trace", ref.images(seed, 2, 3, 8))["layers"]
    except StudentError:
        called = []  # a forward pass that fails is judged under `shape`
    owned = [base for part in model.verb("structure") if part["path"] for base in part["bases"][:1]]
    kinds = (".conv.", ".linear.", ".dropout.", ".batchnorm.", ".instancenorm.")
    layers = [layer for layer in (*owned, *called) if any(kind in layer for kind in kinds)]
    check.that(
        not layers,
        f"Expected functional style; the block uses the layer `{layer_name(layers)}`.",
        "Use `F.conv2d`, `F.batch_norm` and `F.dropout` with tensors that the block registers itself.",
    )


@weight(1)
@number("4.9")
@tags("blocks", "gpu")
@both
def test_gpu(student: Student, seed: int, name: str) -> None:
    """The block moves to a GPU whole, buffers included, and runs there in both modes."""
    batch = ref.images(seed, 3, 3, 8)
    expected_block = blocks.Held(student, name, calm=True)
    expected = check.tensor(expected_block.model.eval()(batch))
    values = {entry.path: entry.tensor for entry in held(expected_block.model)}
    where = student.use_gpu()
    block = blocks.Held(student, name, calm=True)
    paths = {entry.path for entry in held(block.model)}
    block.model.verb("assign", {path: value for path, value in values.items() if path in paths})
    blocks.check_on_gpu(block.model, batch, expected, name, where)
