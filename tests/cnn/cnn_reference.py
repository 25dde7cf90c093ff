"""The reference of the `cnn` suite: the network and the block as plain functions of their weights, and their well-known variants.

Everything is computed in the grader's process from weights that the suite drew or read, in the dtype of those weights: float64 gives the
expected values, float32 beside it calibrates how far an honest float32 answer may be from them.
"""

import dataclasses
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812  # PyTorch's own name for it

Weights = dict[str, torch.Tensor]

ROLES: dict[str, tuple[int, ...]] = {
    "first convolution's weight": (16, 1, 5, 5),
    "first convolution's bias": (16,),
    "second convolution's weight": (32, 16, 5, 5),
    "second convolution's bias": (32,),
    "linear layer's weight": (10, 512),
    "linear layer's bias": (10,),
}
"""What the network's six tensors are called in messages, and their shapes: all different, so a shape tells which is which."""

CONV1, BIAS1, CONV2, BIAS2, LINEAR, BIAS3 = ROLES


@dataclasses.dataclass(frozen=True)
class Network:
    """The network, or one with a known mistake.

    Attributes:
        words: What the mistake is, as it completes "your network matches the reference, but …"; empty for the right one.
        first: Activation after the first convolution.
        second: Activation after the second.
        pool: The two pooling functions.
        flatten: How (N, 32, 4, 4) becomes (N, 512).
        after: Applied to the logits.
        without: Tensors left unused.
    """

    words: str = ""
    first: Callable[[torch.Tensor], torch.Tensor] = torch.relu
    second: Callable[[torch.Tensor], torch.Tensor] = torch.relu
    pool: tuple[Callable[..., torch.Tensor], Callable[..., torch.Tensor]] = (F.max_pool2d, F.max_pool2d)
    flatten: Callable[[torch.Tensor], torch.Tensor] = lambda features: features.flatten(1)
    after: Callable[[torch.Tensor], torch.Tensor] = lambda logits: logits
    without: tuple[str, ...] = ()

    def __call__(self, images: torch.Tensor, weights: Weights) -> torch.Tensor:
        """Logits (N, 10) of images (N, 1, 28, 28) in eval mode."""
        used = {role: None if role in self.without else tensor for role, tensor in weights.items()}
        features = F.conv2d(images, weights[CONV1], used[BIAS1])
        features = self.pool[0](self.first(features), 2)
        features = F.conv2d(features, weights[CONV2], used[BIAS2])
        features = self.pool[1](self.second(features), 2)
        return self.after(F.linear(self.flatten(features), weights[LINEAR], used[BIAS3]))


def _same(values: torch.Tensor) -> torch.Tensor:
    return values


def _variants() -> Iterator[Network]:
    yield Network("the first ReLU is left out", first=_same)
    yield Network("the second ReLU is left out", second=_same)
    yield Network("both ReLUs are left out", first=_same, second=_same)
    for name, other in (
        ("sigmoid", torch.sigmoid),
        ("tanh", torch.tanh),
        ("leaky ReLU", F.leaky_relu),
        ("GELU", F.gelu),
        ("ELU", F.elu),
        ("SiLU", F.silu),
        ("ReLU6", F.relu6),
        ("softplus", F.softplus),
    ):
        yield Network(f"a {name} stands where both ReLUs should", first=other, second=other)
        yield Network(f"a {name} stands where the first ReLU should", first=other)
        yield Network(f"a {name} stands where the second ReLU should", second=other)
    yield Network("average pooling is used instead of max pooling", pool=(F.avg_pool2d, F.avg_pool2d))
    yield Network("the first pooling is average instead of max pooling", pool=(F.avg_pool2d, F.max_pool2d))
    yield Network("the second pooling is average instead of max pooling", pool=(F.max_pool2d, F.avg_pool2d))
    yield Network("a softmax is applied to the logits", after=lambda logits: logits.softmax(1))
    yield Network("a softmax over the batch is applied to the logits", after=lambda logits: logits.softmax(0))
    yield Network("a log-softmax is applied to the logits", after=lambda logits: logits.log_softmax(1))
    yield Network("a sigmoid is applied to the logits", after=torch.sigmoid)
    yield Network("a ReLU is applied to the logits", after=torch.relu)
    yield Network("a tanh is applied to the logits", after=torch.tanh)
    yield Network(
        "the flattening order is wrong: channels come last",
        flatten=lambda features: features.permute(0, 2, 3, 1).flatten(1),
    )
    yield Network(
        "the flattening order is wrong: height and width are swapped",
        flatten=lambda features: features.transpose(2, 3).flatten(1),
    )
    yield Network(
        "the flattening order is wrong: the batch dimension is mixed into the features",
        flatten=lambda features: features.transpose(0, 1).reshape(features.shape[0], -1),
    )
    for count in (1, 2, 3):
        for roles in itertools.combinations((BIAS1, BIAS2, BIAS3), count):
            yield Network(f"the {' and the '.join(roles)} {'is' if count == 1 else 'are'} not used", without=roles)


REFERENCE = Network()
VARIANTS = tuple(_variants())


def draw(seed: int, shapes: dict[str, tuple[int, ...]] = ROLES) -> Weights:
    """Asymmetric random weights (float64) under which about half of the ReLUs are active and no two variants agree."""
    generator = torch.Generator().manual_seed(seed)
    weights = {}
    for role, shape in shapes.items():
        fan_in = 1
        for length in shape[1:]:
            fan_in *= length
        scale = 0.5 if len(shape) == 1 else 1.2 / fan_in**0.5
        weights[role] = (torch.randn(shape, generator=generator, dtype=torch.float64) * scale).float().double()
    return weights


def images(seed: int, count: int, channels: int = 1, side: int = 28) -> torch.Tensor:
    """Standard normal images (count, channels, side, side), float32."""
    return torch.randn(count, channels, side, side, generator=torch.Generator().manual_seed(seed))


def tolerance(function: Callable[[torch.dtype], torch.Tensor]) -> float:
    """How far an honest float32 answer may be from the float64 one.

    The error of our own float32 computation is one sample of what rounding does; another order of summation, another number of threads
    or oneDNN switched off moved it by factors up to 4. Forty times it, with a floor of forty roundings of the largest value, stays
    three orders of magnitude below what any variant changes.
    """
    exact, rounded = function(torch.float64), function(torch.float32)
    error = float((exact - rounded.double()).abs().max())
    return 40.0 * max(error, float(exact.abs().max()) * torch.finfo(torch.float32).eps)


def cast(weights: Weights, dtype: torch.dtype) -> Weights:
    """The weights in another dtype."""
    return {role: tensor.to(dtype) for role, tensor in weights.items()}


def logits(network: Network, batch: torch.Tensor, weights: Weights) -> tuple[torch.Tensor, float]:
    """A network's output (float64) and the tolerance within which a float32 answer equals it."""

    def compute(dtype: torch.dtype) -> torch.Tensor:
        return network(batch.to(dtype), cast(weights, dtype))

    return compute(torch.float64), tolerance(compute)


def gradients(
    network: Network, batch: torch.Tensor, weights: Weights, cotangent: torch.Tensor
) -> tuple[Weights, dict[str, float]]:
    """Gradients of the weighted sum of a network's outputs for each weight (float64), and a tolerance for each."""

    def compute(dtype: torch.dtype) -> Weights:
        leaves = {role: tensor.to(dtype).requires_grad_() for role, tensor in weights.items()}
        loss = (network(batch.to(dtype), leaves) * cotangent.to(dtype)).sum()
        used = [role for role in leaves if role not in network.without]
        found = torch.autograd.grad(loss, [leaves[role] for role in used])
        zeros = {role: torch.zeros_like(leaf) for role, leaf in leaves.items()}
        return {**zeros, **dict(zip(used, found, strict=True))}

    exact, rounded = compute(torch.float64), compute(torch.float32)
    eps = torch.finfo(torch.float32).eps
    margins = {
        role: 40.0
        * max(float((exact[role] - rounded[role].double()).abs().max()), float(exact[role].abs().max()) * eps)
        for role in exact
    }
    return exact, margins


# ---- the block: conv 3×3, padding 1 · batch norm · ReLU · 2×2 max-pool · dropout


@dataclasses.dataclass(frozen=True)
class Block:
    """The block in eval or train mode without its dropout, or one with a known mistake; see `Network`."""

    words: str = ""
    order: tuple[str, ...] = ("norm", "relu", "pool")
    pool: Callable[..., torch.Tensor] = F.max_pool2d
    eps: float = 1e-5
    batch_statistics: bool = False

    def __call__(self, batch: torch.Tensor, weights: Weights) -> torch.Tensor:
        """(N, C_in, H, W) to (N, C_out, H // 2, W // 2)."""
        return self.after(F.conv2d(batch, weights["weight"], padding=1), weights)

    def after(self, features: torch.Tensor, weights: Weights) -> torch.Tensor:
        """What follows the convolution, whose bias is added here: it is one of the tensors whose role must be found out."""
        if "bias" in weights:
            features = features + weights["bias"][:, None, None]
        for step in self.order:
            if step == "norm":
                mean, var = weights["mean"], weights["var"]
                if self.batch_statistics:
                    mean, var = features.mean((0, 2, 3)), features.var((0, 2, 3), unbiased=False)
                scale = weights["gamma"] / (var + self.eps).sqrt()
                features = features * scale[:, None, None] + (weights["beta"] - mean * scale)[:, None, None]
            elif step == "relu":
                features = torch.relu(features)
            else:
                features = self.pool(features, 2)
        return features


BLOCK = Block()
BLOCK_VARIANTS = (
    Block("the ReLU is left out", ("norm", "pool")),
    Block("the ReLU comes before the batch norm", ("relu", "norm", "pool")),
    Block("the batch norm comes after ReLU and pooling", ("relu", "pool", "norm")),
    Block("the batch norm is left out", ("relu", "pool")),
    Block("average pooling is used instead of max pooling", pool=F.avg_pool2d),
    Block("eval mode uses the batch's statistics instead of the running ones", batch_statistics=True),
    Block("eps is 1e-3 instead of 1e-5", eps=1e-3),
    Block("eps is 1e-2 instead of 1e-5", eps=1e-2),
    Block("eps is 0 instead of 1e-5", eps=0.0),
)


def block_output(block: Block, batch: torch.Tensor, weights: Weights) -> tuple[torch.Tensor, float]:
    """A block's output (float64) and the tolerance within which a float32 answer equals it."""

    def compute(dtype: torch.dtype) -> torch.Tensor:
        return block(batch.to(dtype), cast(weights, dtype))

    return compute(torch.float64), tolerance(compute)


def variants_of(network: Any) -> tuple[Any, ...]:
    """The right network first, then its variants."""
    return (BLOCK, *BLOCK_VARIANTS) if isinstance(network, Block) else (REFERENCE, *VARIANTS)
