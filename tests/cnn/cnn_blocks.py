"""How a student's block is held and judged.

Its five vectors have one shape, so behaviour tells which is which: every assignment of the vectors to their roles is tried, and the one
under which the block computes what it should is theirs.
"""

import itertools

import cnn_reference as ref
import torch
from cnn_student import Held as HeldTensor
from cnn_student import build, check_moved, explain, held, judge, on_gpu, squeezed

from autograder.suite import check
from autograder.suite.proxy import Handle, Student

VECTORS = ("gamma", "beta", "mean", "var", "bias")


class Held:
    """A student's block with 3 channels in and 6 out.

    Attributes:
        weight: The convolution's weight.
        vectors: Every tensor of six values, in the order in which they are held.
    """

    inside, outside = 3, 6

    def __init__(self, student: Student, name: str, *, calm: bool = True) -> None:
        self.name = name
        self.model = build(student, name, self.inside, self.outside, p=0.0)
        if calm:
            self.model.verb("calm")
        entries = held(self.model)
        shape = (self.outside, self.inside, 3, 3)
        self.weight = next((entry for entry in entries if squeezed(entry.tensor.shape) == shape), None)
        self.vectors = [entry for entry in entries if squeezed(entry.tensor.shape) == (self.outside,)]

    def fill(self, seed: int) -> list[torch.Tensor]:
        """Set the weight and every vector to positive random values; any of them could be a variance.

        Returns:
            The vectors' values (float64), in the order of `vectors`.
        """
        if self.weight is None:
            check.fail(
                f"Your `{self.name}({self.inside}, {self.outside})` holds no tensor of shape "
                f"({self.outside}, {self.inside}, 3, 3), so its output cannot be compared.",
                "The convolution's weight has shape (out_channels, in_channels, 3, 3).",
            )
        generator = torch.Generator().manual_seed(seed)
        values = [torch.rand(self.outside, generator=generator).double() * 1.5 + 0.3 for _ in self.vectors]
        self.kernel = torch.randn(self.weight.tensor.shape, generator=generator).double() * 0.4
        new = {
            entry.path: value.float().reshape(entry.tensor.shape)
            for entry, value in zip(self.vectors, values, strict=True)
        }
        self.model.verb("assign", {**new, self.weight.path: self.kernel.float()})
        return [value.float().double() for value in values]

    def features(self, batch: torch.Tensor) -> torch.Tensor:
        """What the convolution makes of a batch (float64), its bias aside."""
        kernel = self.kernel.float().double().reshape(self.outside, self.inside, 3, 3)
        return torch.nn.functional.conv2d(batch.double(), kernel, padding=1)

    def roles(self, values: list[torch.Tensor], order: tuple[str, ...]) -> ref.Weights:
        """The block's tensors as the reference takes them, if the vectors played these roles."""
        weights = dict(zip(order, values, strict=True))
        kernel = self.kernel.float().double().reshape(self.outside, self.inside, 3, 3)
        absent = {"gamma": torch.ones_like(kernel[:, 0, 0, 0]), "beta": torch.zeros_like(kernel[:, 0, 0, 0])}
        return {**absent, "weight": kernel, **weights}


def check_shape(output: object, count: int, channels: int, side: int, what: str) -> None:
    """Fail unless the output has the block's shape; name the step that is missing where the size tells."""
    got = tuple(output.shape[2:]) if isinstance(output, torch.Tensor) and output.dim() == 4 else ()
    causes = {
        (side, side): "the pooling is missing",
        (side - 2, side - 2): "the padding and the pooling are missing",
        ((side - 2) // 2,) * 2: "the padding of the convolution is missing: `padding=1`",
        ((side + 2) // 2,) * 2: "the padding of the convolution is 2 instead of 1",
    }
    cause = f"Likely cause: {causes[got]}." if got in causes and got != (side // 2, side // 2) else ""
    check.shape(output, (count, channels, side // 2, side // 2), what, cause)


def _orders(count: int) -> list[tuple[str, ...]]:
    """Every way in which that many vectors can play the block's roles.

    The convolution's bias is optional; batch norm's weight and bias are not, but a block without them can still be judged: they count
    as ones and zeros, and are missed under `registration`.
    """
    held_roles = {2: ("mean", "var"), 3: ("mean", "var", "bias"), 4: VECTORS[:4], 5: VECTORS}
    return list(itertools.permutations(held_roles[count])) if count in held_roles else []


def _need(block: Held) -> None:
    if len(block.vectors) in (2, 3, 4, 5):
        return
    check.fail(
        f"Expected `{block.name}({block.inside}, {block.outside})` to hold four or five tensors of {block.outside} values (batch norm's "
        f"weight, bias, running mean and running variance, and perhaps the convolution's bias), got {len(block.vectors)}.",
        "Make each of them in `__init__`.",
    )


def judge_eval(block: Held, batch: torch.Tensor, seed: int) -> tuple[str, ...]:
    """Fail unless the block computes the reference's values in eval mode; say which vector plays which role."""
    values = block.fill(seed)
    output = block.model.eval()(batch)
    _need(block)
    check_shape(output, len(batch), block.outside, batch.shape[-1], f"the output of your `{block.name}` in eval mode")
    orders = _orders(len(values))
    features = block.features(batch)
    for order in orders:
        weights = block.roles(values, order)
        # first by the float64 answer alone, which costs a convolution less; then within what rounding allows
        if check.matches(output, ref.BLOCK.after(features, weights), 1e-2):
            expected, margin = ref.block_output(ref.BLOCK, batch, weights)
            if check.matches(output, expected, margin):
                return order
    # Not the right function under any roles: name a known mistake, under the likeliest roles that show one.
    for order in orders:
        if explain(output, batch, block.roles(values, order), ref.BLOCK) is not None:
            judge(
                output, batch, block.roles(values, order), f"the output of your `{block.name}` in eval mode", ref.BLOCK
            )
    judge(output, batch, block.roles(values, orders[0]), f"the output of your `{block.name}` in eval mode", ref.BLOCK)
    return orders[0]


def judge_train(block: Held, batch: torch.Tensor, seed: int) -> None:
    """Fail unless train mode uses the batch's statistics and moves the running ones by a tenth, and eval mode leaves them."""
    before = block.fill(seed)
    _need(block)
    block.model.eval()(batch)
    unmoved = _vectors(block)
    check.that(
        all(torch.equal(one, other) for one, other in zip(before, unmoved, strict=True)),
        "Expected eval mode to leave the running statistics as they are; it changed them.",
        "`F.batch_norm(..., training=self.training)` updates them in train mode only.",
    )
    output = check.tensor(block.model.train()(batch), "the output in train mode")
    after = _vectors(block)
    features = block.features(batch)
    moved = [index for index, (one, other) in enumerate(zip(before, after, strict=True)) if not torch.equal(one, other)]
    check.that(
        len(moved) == 2,
        f"Expected train mode to update two buffers, the running mean and variance; it changed {len(moved)}.",
        "Pass the registered buffers to `F.batch_norm` with `training=self.training`, or assign to them in place.",
    )
    _check_update(block, before, after, moved, features)
    _check_normalised(block, output, batch, before, moved)


def _check_update(
    block: Held, before: list[torch.Tensor], after: list[torch.Tensor], moved: list[int], features: torch.Tensor
) -> None:
    """The two that moved went a tenth of the way towards the batch's mean (with or without the bias) and unbiased variance."""
    means = [features.mean((0, 2, 3)), *(features.mean((0, 2, 3)) + value for value in before)]
    variance = features.var((0, 2, 3), unbiased=True)
    biased = features.var((0, 2, 3), unbiased=False)

    def went(momentum: float, spread: torch.Tensor) -> bool:
        for mean_at, var_at in (moved, moved[::-1]):
            var = (1 - momentum) * before[var_at] + momentum * spread
            if not check.matches(after[var_at], var, 1e-4):
                continue
            if any(
                check.matches(after[mean_at], (1 - momentum) * before[mean_at] + momentum * mean, 1e-4)
                for mean in means
            ):
                return True
        return False

    if went(0.1, variance):
        return
    causes = (
        (
            0.1,
            biased,
            "the running variance is updated with the biased variance; PyTorch's batch norm uses the unbiased one",
        ),
        (0.9, variance, "momentum is the share of the new value: 0.1, not 0.9"),
        (0.9, biased, "momentum is 0.9 instead of 0.1, and the variance is the biased one"),
        (1.0, variance, "the running statistics are replaced by the batch's instead of moved by a tenth"),
        (0.01, variance, "momentum is 0.01 instead of 0.1"),
        (0.2, variance, "momentum is 0.2 instead of 0.1"),
        (0.5, variance, "momentum is 0.5 instead of 0.1"),
    )
    cause = next((words for momentum, spread, words in causes if went(momentum, spread)), "")
    check.fail(
        f"Expected the running statistics of your `{block.name}` to become 0.9 · old + 0.1 · the batch's; they did not.",
        f"Likely cause: {cause}." if cause else "The momentum is 0.1 and the variance is the unbiased one.",
    )


def _check_normalised(
    block: Held, output: torch.Tensor, batch: torch.Tensor, before: list[torch.Tensor], moved: list[int]
) -> None:
    """In train mode the output is normalised by the batch's own statistics, whichever vectors scale and shift it."""
    trained, features = ref.Block(batch_statistics=True), block.features(batch)
    others = [value for index, value in enumerate(before) if index not in moved]
    others += [torch.ones_like(before[0]), torch.zeros_like(before[0])] if len(others) < 2 else []
    known = [trained, *(ref.Block(v.words, v.order, v.pool, v.eps, batch_statistics=True) for v in ref.BLOCK_VARIANTS)]
    for gamma, beta in itertools.permutations(others, 2):
        ones = torch.ones_like(gamma)
        weights = {**block.roles(before[:0], ()), "gamma": gamma, "beta": beta, "mean": ones, "var": ones}
        for bias in (None, *(value for value in others if value is not gamma and value is not beta)):
            full = weights if bias is None else {**weights, "bias": bias}
            for variant in known:
                if check.matches(output, variant.after(features, full), 1e-2) and check.matches(
                    output, *ref.block_output(variant, batch, full)
                ):
                    return  # a known mistake in what it computes is judged in eval mode
    check.fail(
        f"Expected your `{block.name}` to normalise by the batch's mean and biased variance in train mode; it does not.",
        "`F.batch_norm(x, mean, var, weight, bias, training=self.training)`.",
    )


def _vectors(block: Held) -> list[torch.Tensor]:
    now = {entry.path: entry for entry in held(block.model)}
    missing = [entry.path for entry in block.vectors if entry.path not in now]
    check.that(not missing, f"Expected `{', '.join(missing)}` to stay where it is through a forward pass; it is gone.")
    return [now[entry.path].tensor.double().reshape(-1) for entry in block.vectors]


def registered(student: Student, name: str) -> None:
    """Parameters and buffers are exactly a convolution's and a batch norm's."""
    block = Held(student, name)
    entries = held(block.model)
    floats = [entry for entry in entries if entry.tensor.is_floating_point() and entry.tensor.numel() > 1]
    problems = []
    if block.weight is None:
        problems.append(
            f"no tensor of shape ({block.outside}, {block.inside}, 3, 3), the convolution's weight, is held"
        )
    elif block.weight.kind != "parameter":
        problems.append(f"the convolution's weight `{block.weight.path}` is {_kind(block.weight)}, not a parameter")
    parameters = [entry for entry in block.vectors if entry.kind == "parameter"]
    buffers = [entry for entry in block.vectors if entry.kind == "buffer"]
    if len(buffers) != 2:
        problems.append(
            f"{len(buffers)} buffers of {block.outside} values are registered; running mean and variance make two"
        )
    if len(parameters) not in (2, 3):
        problems.append(
            f"{len(parameters)} parameters of {block.outside} values are registered; batch norm's weight and bias make two, the "
            "convolution's bias three"
        )
    known = {entry.path for entry in (*block.vectors, *([block.weight] if block.weight else []))}
    problems += [
        f"`{entry.path}` of shape {tuple(entry.tensor.shape)} is not part of the block"
        for entry in floats
        if entry.path not in known and entry.kind != "loose"
    ]
    problems += [f"`{entry.path}` is {_kind(entry)}" for entry in block.vectors if entry.kind == "loose"]
    counters = [entry for entry in entries if entry.kind == "buffer" and entry.tensor.numel() == 1]
    if len(counters) > 1:
        problems.append(f"{len(counters)} scalar buffers are registered; one counter is allowed")
    if problems:
        check.fail(
            f"Expected `{name}` to register its weights as parameters and its running statistics as buffers; "
            + "; ".join(problems[:5])
            + ".",
            "`self.register_buffer('running_mean', torch.zeros(out_channels))` registers a buffer.",
        )


def _kind(entry: HeldTensor) -> str:
    return {"parameter": "a parameter", "buffer": "a buffer"}.get(
        entry.kind, "a plain tensor, which torch does not see"
    )


def round_trip(student: Student, name: str, seed: int) -> None:
    """`load_state_dict` brings values in and `state_dict` gives them back; two instances are independent."""
    block, other = Held(student, name), Held(student, name)
    before = other.model.state_dict()
    generator = torch.Generator().manual_seed(seed)
    state = {
        path: torch.rand(value.shape, generator=generator) + 0.1 if value.is_floating_point() else value
        for path, value in block.model.state_dict().items()
    }
    block.model.load_state_dict(state)
    for path, value in block.model.state_dict().items():
        check.that(
            bool(torch.equal(value, state[path])),
            f"Expected `state_dict()` to give back what was loaded; `{path}` differs.",
        )
    for path, value in other.model.state_dict().items():
        check.that(
            bool(torch.equal(value, before[path])),
            f"Expected two blocks to be independent; loading one changed the other's `{path}`.",
        )


def check_on_gpu(model: Handle, batch: torch.Tensor, expected: torch.Tensor, name: str, where: str) -> None:
    """Both modes run on the GPU, the output is there, and eval mode gives what it gives on the CPU."""
    model.to(torch.device("cuda"))
    output = model.eval()(on_gpu(batch))
    check.shape(output, tuple(expected.shape), f"the output on {where}")
    device = output.claimed_device
    check.that(device.startswith("cuda"), f"Expected the output of `{name}` to be on {where}; it is on {device}.")
    check.close(output, expected.double(), f"the output on {where}", tolerance=1e-3 * (1 + float(expected.abs().max())))
    answer = model.train().verb("gradients", on_gpu(batch))
    check.that(answer["grads"] is not None, f"Expected a backward pass on {where} to give gradients; it gives none.")
    check_moved(model)
