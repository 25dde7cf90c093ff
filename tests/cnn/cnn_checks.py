"""What both networks are checked for: one function for each aspect, called by the tests of `ModuleCNN` and of `FunctionalCNN`."""

import cnn_reference as ref
import torch
from cnn_student import (
    Held,
    Net,
    build,
    check_moved,
    check_rate,
    explain,
    held,
    judge,
    logits_of,
    on_gpu,
    squeezed,
)

from autograder.suite import check
from autograder.suite.proxy import Handle, Student


def _still(student: Student, name: str, p: float = 0.0) -> Net:
    """A network in eval mode whose dropout does nothing, whatever the student's mistakes with dropout: others are judged here."""
    net = Net(student, name, p)
    net.model.verb("calm")
    net.model.eval()
    return net


def shape(student: Student, name: str, seed: int) -> None:
    """(N, 10) float32 logits for several N."""
    model = build(student, name, p=0.0)
    model.verb("calm")
    model.eval()
    for count in (1, 3, 8):
        output = model(ref.images(seed, count))
        check.shape(
            output,
            (count, 10),
            f"the output for a batch of {count}",
            "The batch size must not be written into the code; use `x.flatten(1)` or `x.shape[0]`."
            if count != 8
            else "",
        )
        check.dtype(output, what=f"the output for a batch of {count}")


def registered(student: Student, name: str) -> None:
    """Exactly the six tensors are registered, as parameters that require gradients."""
    model = build(student, name, p=0.0)
    entries = held(model)
    wanted = {role: squeezed(shape) for role, shape in ref.ROLES.items()}
    problems, kept = [], dict[str, list[str]]()
    extra = [entry for entry in entries if entry.kind == "parameter"]
    for role, shape in wanted.items():
        fits = [
            entry
            for entry in entries
            if squeezed(entry.tensor.shape) in (shape, shape[::-1] if len(shape) == 2 else shape)
        ]
        right = [entry for entry in fits if entry.kind == "parameter"]
        if right:
            extra.remove(right[0])
        elif fits:
            kept.setdefault(_kept(fits[0]), []).append(f"the {role} (`{fits[0].path}`)")
        else:
            problems.append(f"no parameter of shape {ref.ROLES[role]} (the {role}) is registered")
    problems += [f"{', '.join(names)} {'are' if len(names) > 1 else 'is'} kept {how}" for how, names in kept.items()]
    problems += [f"`{entry.path}` of shape {tuple(entry.tensor.shape)} is not part of the network" for entry in extra]
    problems += [
        f"the buffer `{entry.path}` of shape {tuple(entry.tensor.shape)} is not part of the network"
        for entry in entries
        if entry.kind == "buffer"
    ]
    frozen = [entry.path for entry in entries if entry.kind == "parameter" and not entry.tensor.claimed_requires_grad]  # type: ignore[attr-defined]
    problems += [f"the parameter `{path}` has `requires_grad` off" for path in frozen]
    if problems:
        count = sum(entry.tensor.numel() for entry in entries if entry.kind == "parameter")
        check.fail(
            f"Expected exactly six parameters, 18,378 values in all; got {count:,} values:\n\n"
            + "\n".join(f"- {problem}" for problem in problems[:8]),
            ""
            if kept
            else "`super().__init__()` comes first; then each `nn.Parameter` or layer set on `self` is registered.",
        )


def _kept(entry: Held) -> str:
    """How a tensor is kept that should be a parameter, and what to do about it."""
    if entry.kind == "buffer":
        return "as a buffer: make it an `nn.Parameter`"
    if any(part.isdigit() for part in entry.path.split(".")):
        return "in a plain list, into which torch does not look: use an `nn.ParameterList`, or an `nn.ModuleList` for layers"
    return "as a plain tensor, which torch does not see: make it an `nn.Parameter` attribute"


def loads(student: Student, name: str, seed: int) -> None:
    """`load_state_dict` brings in values that `forward` uses, `state_dict` gives them back, and instances are independent."""
    net = _still(student, name)
    batch = ref.images(seed, 4)
    other = _still(student, name)
    other_before = other.answer(batch)
    state = net.model.state_dict()
    roles = {role: entry for role, entry in net.roles.items() if entry.path in state}
    check.that(bool(roles), f"Expected `state_dict()` of your `{name}` to hold its weights, got {sorted(state)[:6]}.")
    weights = ref.draw(seed)
    new = {**state, **{entry.path: net.shaped(role, weights[role]) for role, entry in roles.items()}}
    net.model.load_state_dict(new)
    output = net.answer(batch)
    for path, value in net.model.state_dict().items():
        check.that(
            bool(torch.equal(value, new[path].to(value.dtype))),
            f"Expected `state_dict()` to give back what `load_state_dict` put in; `{path}` differs.",
        )
    for role, entry in roles.items():
        net.model.load_state_dict({**new, entry.path: new[entry.path] + 0.5})
        check.that(
            not torch.equal(net.answer(batch), output),
            f"Expected another value of the {role} (`{entry.path}`) to change the output; it does not.",
            "What is registered must be what `forward` uses: no copies made in `__init__`, no layer made anew in `forward`.",
        )
    check.that(
        bool(torch.equal(other.answer(batch), other_before)),
        f"Expected two `{name}`s to be independent; loading weights into one changed the other's output.",
        "They share weights: make them in `__init__`, on `self`, not on the class or at the top of the file.",
    )


def values(student: Student, name: str, seed: int) -> None:
    """The output equals the reference's, computed from the same weights."""
    net = _still(student, name)
    batch = ref.images(seed, 5)
    weights = net.assign(ref.draw(seed))
    judge(net.model(batch), batch, weights, f"the logits of your `{name}` in eval mode")


def input_kept(student: Student, name: str, seed: int) -> None:
    """`forward` leaves its input as it was."""
    net = _still(student, name)
    batch = ref.images(seed, 2)
    after = check.tensor(net.model.verb("input_after", batch))
    check.that(
        bool(torch.equal(after, batch)),
        f"Expected `forward` of your `{name}` to leave its input unchanged; it wrote into it.",
        "An in-place operation such as `relu_`, `+=` or `inplace=True` works on the caller's images.",
    )


def silent(student: Student, name: str, seed: int) -> None:
    """With p > 0, eval mode gives what the network computes without dropout, time after time, also after train mode."""
    net = Net(student, name, p=0.5)
    weights = net.assign(ref.draw(seed))
    batch = ref.images(seed, 4)
    net.model.eval()
    first = net.answer(batch)
    net.model.train()(batch)
    net.model.eval()
    again = net.answer(batch, "in eval mode after train mode")
    net.model.verb("calm")
    still = net.answer(batch)
    known = explain(still, batch, weights)
    expected, margin = (
        ref.logits(known, batch, weights) if known else (still.double(), 1e-5 * (1 + float(still.abs().max())))
    )
    for output, when in ((first, "in eval mode"), (again, "in eval mode after train mode")):
        check.shape(output, tuple(expected.shape), f"the output {when}")
        check.that(
            check.matches(output, expected, margin),
            f"Expected the output {when} to be the network's without dropout; it differs by up to "
            f"{float((output.double() - expected).abs().max()):.3g}.",
            "Dropout stays on in eval mode: pass `training=self.training` to `F.dropout`, or use an `nn.Dropout` made in "
            "`__init__`.",
        )


def _decoded(output: torch.Tensor, still: ref.Network | None) -> torch.Tensor:
    """Logits up to a constant, also where a softmax was applied to them: that mistake costs points elsewhere."""
    words = still.words if still else ""
    if "log-softmax" in words or "softmax is applied" in words:
        output = output if "log-softmax" in words else output.clamp(min=1e-30).log()
        return output - output[:, 9:]
    return output


IMAGES = 160
"""Times 8 features, 1,280 draws: enough to tell p = 0.2 from 0.5 at 6.5 standard deviations."""


def drops(student: Student, name: str, seed: int) -> None:
    """In train mode the 512 features are dropped one by one at rate `p`, and what is kept is scaled by 1 / (1 - p)."""
    drawn, known = ref.draw(seed), known_network(student, name, seed)
    for p in (0.5, 0.2):
        net = Net(student, name, p)
        # All weights positive and the images constant: every feature of a channel has one positive value. The logits then pick
        # single features, 0 and 1 from the same channel, and the ninth their sum; the tenth is zero.
        picks = (0, 1, 17, 40, 100, 200, 300, 511)
        weights = {role: tensor.abs() + 0.01 for role, tensor in drawn.items()}
        weights[ref.LINEAR] = torch.zeros(10, 512, dtype=torch.float64)
        for row, feature in enumerate(picks):
            weights[ref.LINEAR][row, feature] = 1.0
        weights[ref.LINEAR][8] = weights[ref.LINEAR][:8].sum(0)
        weights[ref.BIAS3] = torch.zeros(10, dtype=torch.float64)
        scale = 0.05 / (25 * 0.3)
        weights[ref.CONV1], weights[ref.CONV2] = weights[ref.CONV1] * scale, weights[ref.CONV2] * scale
        net.assign(weights)
        batch = torch.ones(IMAGES, 1, 28, 28)
        base = _decoded(student_without_dropout(net, batch), known)[:, :8].double()
        net.model.train()
        output = net.answer(batch, "in train mode")
        ratio = _decoded(output, known).double()
        _check_ratio(ratio, base, p, name)


def known_network(student: Student, name: str, seed: int) -> ref.Network | None:
    """Which network, right or wrong, the student's computes in eval mode without dropout."""
    probe = Net(student, name)
    weights = probe.assign(ref.draw(seed))
    batch = ref.images(seed, 3)
    found = explain(student_without_dropout(probe, batch), batch, weights)
    return found if isinstance(found, ref.Network) else None


def student_without_dropout(net: Net, batch: torch.Tensor) -> torch.Tensor:
    """The network's eval-mode output with dropout taken out."""
    output = net.model.eval().verb("calmly", batch)
    return logits_of(output, len(batch), f"the output of your `{net.name}` in eval mode")


def _check_ratio(output: torch.Tensor, base: torch.Tensor, p: float, name: str) -> None:
    single = output[:, :8] / base
    kept = single.abs() > 1e-3
    check.that(
        not bool(torch.equal(single, single[:1].expand_as(single))) or bool(kept.all()),
        f"Expected the output of your `{name}` in train mode to vary from image to image; all are the same.",
        "Is the generator seeded in `forward`?",
    )
    check_rate(int(kept.sum()), kept.numel(), p, f"your `{name}(p={p})`")
    scales = single[kept]
    check.that(
        bool((scales - 1 / (1 - p)).abs().max() < 1e-2),
        f"Expected what dropout keeps to be scaled by 1 / (1 - p) = {1 / (1 - p):g}, got factors from "
        f"{float(scales.min()):.3g} to {float(scales.max()):.3g}.",
        "Dropout comes after flattening and before the linear layer, once, with this `p`.",
    )
    total = output[:, 8]
    check.that(
        bool((total - output[:, :8].sum(1)).abs().max() < 1e-2 * (1 + float(total.abs().max()))),
        "Expected dropout to work on the 512 features before the linear layer; it works on the logits.",
    )
    check.that(
        not bool(torch.equal(kept[:, 0], kept[:, 1])),
        "Expected each feature to be dropped on its own; features of one channel are dropped together.",
        "Use `nn.Dropout` or `F.dropout` after flattening, not the 2d form.",
    )


def gradients(student: Student, name: str, seed: int) -> None:
    """The loss's gradient reaches every parameter and equals the reference's."""
    net = _still(student, name)
    batch = ref.images(seed, 4)
    weights = net.assign(ref.draw(seed))
    net.answer(batch)
    cotangent = torch.randn(4, 10, generator=torch.Generator().manual_seed(seed + 1))
    answer = net.model.verb("gradients", batch, cotangent)
    check.that(
        answer["grads"] is not None,
        f"Expected a loss of your `{name}`'s output to have gradients; it has none.",
        "Somewhere the graph is cut: `torch.no_grad()`, `.detach()`, `.data`, numpy, or weights that do not require gradients.",
    )
    grads = {role: answer["grads"].get(entry.path) for role, entry in net.roles.items()}
    known = explain(logits_of(answer["output"], len(batch), "the output in eval mode"), batch, weights)
    unused = known.without if isinstance(known, ref.Network) else ()
    lost = [role for role, grad in grads.items() if role not in unused and (grad is None or not bool(grad.any()))]
    check.that(
        not lost,
        f"Expected the gradient to reach every parameter; it does not reach the {' or the '.join(lost)}.",
        "`.data`, `.detach()` or `torch.no_grad()` in `forward` cuts it off, and so does a tensor that is no `nn.Parameter`.",
    )
    if known is None:
        return  # what it computes is judged under `values`; that the gradient arrives is all that can be said here
    expected, margins = ref.gradients(known, batch, weights, cotangent)
    for role, entry in net.roles.items():
        grad = grads[role]
        if isinstance(grad, torch.Tensor):
            # the expected gradient is reshaped as the student's tensor is
            wanted = net.shaped(role, expected[role])
            check.close(
                grad, wanted, f"the gradient of the {role} (`{entry.path}`)", tolerance=margins[role] * 1.05 + 1e-7
            )


def gpu(student: Student, name: str, seed: int) -> None:
    """On a GPU the whole model moves, runs forward and backward, and gives what it gives on the CPU."""
    batch = ref.images(seed, 3)
    weights = ref.draw(seed)
    on_cpu = _still(student, name)
    if on_cpu.roles.keys() >= ref.ROLES.keys():
        on_cpu.assign(weights)
    expected = on_cpu.answer(batch)
    state = on_cpu.model.state_dict()
    where = student.use_gpu()
    net = _still(student, name)
    if net.roles.keys() >= ref.ROLES.keys():
        net.assign(weights)
    else:
        net.model.load_state_dict(state)
    net.model.to(torch.device("cuda"))
    check_on_gpu(net.model, batch, expected, name, where)


def check_on_gpu(model: Handle, batch: torch.Tensor, expected: torch.Tensor, name: str, where: str) -> None:
    """The output and every gradient are on the GPU, and the output equals the CPU's."""
    answer = model.verb("gradients", on_gpu(batch))
    output = answer["output"]
    check.shape(output, tuple(expected.shape), f"the output on {where}")
    device = output.claimed_device
    check.that(
        device.startswith("cuda"),
        f"Expected the output of your `{name}` to be where its input is, on {where}; it is on {device}.",
        "No line of the model may name a device; `.cpu()` and tensors made without `device=` bring values back.",
    )
    check_moved(model)
    margin = 1e-3 * (1 + float(expected.abs().max()))
    check.close(output, expected.double(), f"the output on {where}", tolerance=margin)
    check.that(answer["grads"] is not None, f"Expected a backward pass on {where} to give gradients; it gives none.")
