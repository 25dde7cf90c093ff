"""One network in two styles.

`nn.Xxx` and `F.xxx` compute the same thing. A module owns its state: weights, buffers, and whether it trains. A
function is handed its state on each call, so in functional style it is you who registers it, passes it, and honours
the mode.

Shapes: N images in a batch, C channels, H rows, W columns.
"""

import math
from collections.abc import Iterable

import torch
import torch.nn.functional as F  # noqa: N812  # the name that PyTorch's own documentation uses
from torch import Tensor, nn

Batches = Iterable[tuple[Tensor, Tensor]]
"""Pairs of images, (N, C, H, W) float32, and class labels, (N,) int64; N may differ from batch to batch."""


def initialise(weight: Tensor, bias: Tensor) -> None:
    """Fill a layer's weight and bias in place with the values that `nn.Conv2d` and `nn.Linear` start from.

    Args:
        weight: (outputs, inputs) of a linear layer or (outputs, inputs, rows, columns) of a convolution.
        bias: (outputs,).
    """
    nn.init.kaiming_uniform_(weight, a=math.sqrt(5))
    bound = 1 / math.sqrt(weight[0].numel())
    nn.init.uniform_(bias, -bound, bound)


class ModuleCNN(nn.Module):
    """Two convolutions and a linear layer, each an `nn` module that registers its own weights.

    Args:
        p: Probability with which dropout zeroes a feature in train mode.
    """

    def __init__(self, p: float = 0.5) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 16, kernel_size=5)
        self.conv2 = nn.Conv2d(16, 32, kernel_size=5)
        self.relu = nn.ReLU()
        self.pool = nn.MaxPool2d(2)
        self.flatten = nn.Flatten()
        self.dropout = nn.Dropout(p)
        self.linear = nn.Linear(512, 10)

    def forward(self, images: Tensor) -> Tensor:
        """Images (N, 1, 28, 28) → logits (N, 10)."""
        features = self.pool(self.relu(self.conv1(images)))  # (N, 16, 12, 12)
        features = self.pool(self.relu(self.conv2(features)))  # (N, 32, 4, 4)
        features = self.dropout(self.flatten(features))  # (N, 512)
        logits: Tensor = self.linear(features)
        return logits


class FunctionalCNN(nn.Module):
    """The same network from `torch.nn.functional`: the parameters are its own, and `forward` passes them on.

    Args:
        p: Probability with which dropout zeroes a feature in train mode.
    """

    def __init__(self, p: float = 0.5) -> None:
        super().__init__()
        self.p = p
        self.conv1_weight = nn.Parameter(torch.empty(16, 1, 5, 5))
        self.conv1_bias = nn.Parameter(torch.empty(16))
        self.conv2_weight = nn.Parameter(torch.empty(32, 16, 5, 5))
        self.conv2_bias = nn.Parameter(torch.empty(32))
        self.linear_weight = nn.Parameter(torch.empty(10, 512))
        self.linear_bias = nn.Parameter(torch.empty(10))
        initialise(self.conv1_weight, self.conv1_bias)
        initialise(self.conv2_weight, self.conv2_bias)
        initialise(self.linear_weight, self.linear_bias)

    def forward(self, images: Tensor) -> Tensor:
        """Images (N, 1, 28, 28) → logits (N, 10)."""
        features = F.relu(F.conv2d(images, self.conv1_weight, self.conv1_bias))  # (N, 16, 24, 24)
        features = F.max_pool2d(features, 2)  # (N, 16, 12, 12)
        features = F.relu(F.conv2d(features, self.conv2_weight, self.conv2_bias))  # (N, 32, 8, 8)
        features = F.max_pool2d(features, 2)  # (N, 32, 4, 4)
        features = F.dropout(features.flatten(1), self.p, training=self.training)  # (N, 512)
        return F.linear(features, self.linear_weight, self.linear_bias)


class ModuleDropout(nn.Module):
    """Dropout by `nn.Dropout`, which hears of `train()` and `eval()` as a submodule.

    Args:
        p: Probability with which a value is zeroed in train mode.
    """

    def __init__(self, p: float = 0.5) -> None:
        super().__init__()
        self.dropout = nn.Dropout(p)

    def forward(self, values: Tensor) -> Tensor:
        """Values of any shape → the same shape, some zeroed and the others scaled by 1 / (1 - p) in train mode."""
        dropped: Tensor = self.dropout(values)
        return dropped


class FunctionalDropout(nn.Module):
    """Dropout by `F.dropout`, which knows the mode only from what it is handed.

    Args:
        p: Probability with which a value is zeroed in train mode.
    """

    def __init__(self, p: float = 0.5) -> None:
        super().__init__()
        self.p = p

    def forward(self, values: Tensor) -> Tensor:
        """Values of any shape → the same shape, some zeroed and the others scaled by 1 / (1 - p) in train mode."""
        return F.dropout(values, self.p, training=self.training)


def module_block(in_channels: int = 3, out_channels: int = 64, p: float = 0.2) -> nn.Sequential:
    """Build a convolutional block from `nn` modules: (N, in_channels, H, W) → (N, out_channels, H // 2, W // 2)."""
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, kernel_size=3, padding=1),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Dropout(p),
    )


class FunctionalBlock(nn.Module):
    """The same block from `torch.nn.functional`: what is learned is a parameter, what is measured is a buffer.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        p: Probability with which dropout zeroes a value in train mode.
    """

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, in_channels: int = 3, out_channels: int = 64, p: float = 0.2) -> None:
        super().__init__()
        self.p = p
        self.conv_weight = nn.Parameter(torch.empty(out_channels, in_channels, 3, 3))
        self.conv_bias = nn.Parameter(torch.empty(out_channels))
        initialise(self.conv_weight, self.conv_bias)
        self.norm_weight = nn.Parameter(torch.ones(out_channels))
        self.norm_bias = nn.Parameter(torch.zeros(out_channels))
        self.register_buffer("running_mean", torch.zeros(out_channels))
        self.register_buffer("running_var", torch.ones(out_channels))

    def forward(self, values: Tensor) -> Tensor:
        """Values (N, in_channels, H, W) → (N, out_channels, H // 2, W // 2); updates the buffers in train mode."""
        values = F.conv2d(values, self.conv_weight, self.conv_bias, padding=1)
        values = F.batch_norm(
            values,
            self.running_mean,
            self.running_var,
            self.norm_weight,
            self.norm_bias,
            training=self.training,
            momentum=0.1,
            eps=1e-5,
        )
        values = F.max_pool2d(F.relu(values), 2)
        return F.dropout(values, self.p, training=self.training)


def copy_weights(source: ModuleCNN, target: FunctionalCNN) -> None:
    """Copy the weights' values, so that both networks answer alike in eval mode and stay independent of each other."""
    with torch.no_grad():
        for name, weight in source.named_parameters():
            target.get_parameter(name.replace(".", "_")).copy_(weight)


def train_epoch(
    model: nn.Module, batches: Batches, optimizer: torch.optim.Optimizer, device: torch.device | str
) -> float:
    """Train for one pass over the batches, one optimizer step for each, and leave the model in train mode.

    Args:
        model: Gives logits (N, classes) for a batch of images.
        batches: What to train on.
        optimizer: Holds the model's parameters.
        device: Where to train; model and batches are moved there.

    Returns:
        The mean cross-entropy over the examples, each taken before its batch's step; nan without examples.
    """
    model.to(device).train()
    total, examples = 0.0, 0
    for images, labels in batches:
        optimizer.zero_grad()
        loss = F.cross_entropy(model(images.to(device)), labels.to(device))
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it unannotated
        optimizer.step()
        total += loss.item() * len(labels)  # back from the batch's mean to its sum: the last batch may be smaller
        examples += len(labels)
    return total / examples if examples else math.nan


def accuracy(model: nn.Module, batches: Batches, device: torch.device | str) -> float:
    """Measure the fraction of examples whose largest logit is their label's, in eval mode and without gradients.

    Args:
        model: Gives logits (N, classes) for a batch of images; it is left in the mode it came in.
        batches: What to measure on.
        device: Where to compute; model and batches are moved there.

    Returns:
        A fraction from 0 to 1; nan without examples.
    """
    was_training = model.training
    model.to(device).eval()
    right, examples = 0, 0
    try:
        with torch.no_grad():
            for images, labels in batches:
                predicted = model(images.to(device)).argmax(dim=1)  # (N,)
                right += int((predicted == labels.to(device)).sum())
                examples += len(labels)
    finally:
        model.train(was_training)
    return right / examples if examples else math.nan
