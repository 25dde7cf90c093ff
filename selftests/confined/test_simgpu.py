"""The simulated CUDA device: right programs give the CPU's values, wrong ones fail as on a GPU, and nothing leaks."""

# What stands in for students' programs is written as they write it.
# ruff: noqa: D101, D102, D103, ARG004
# mypy: disable-error-code="no-untyped-call, no-any-return"

import contextlib
import copy
import io
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812  # as everybody writes it
from torch import nn

from autograder.confined.simgpu import device_of, sides, simulated_cuda

Snippet = Callable[[torch.device], Any]
RIGHT: dict[str, Snippet] = {}
WRONG: dict[str, tuple[Snippet, str]] = {}
SAME_DEVICE = "found at least two devices, cuda:0 and cpu!"


def right(snippet: Snippet) -> Snippet:
    """Register a snippet that must give on the simulated device what it gives on the CPU."""
    RIGHT[snippet.__name__] = snippet
    return snippet


def wrong(message: str = SAME_DEVICE) -> Callable[[Snippet], Snippet]:
    """Register a snippet that a GPU refuses with that message."""

    def register(snippet: Snippet) -> Snippet:
        WRONG[snippet.__name__] = (snippet, message)
        return snippet

    return register


@pytest.fixture
def cuda() -> Iterator[torch.device]:
    """The simulated machine, entered for one test."""
    with simulated_cuda():
        yield torch.device("cuda")


# ---------------------------------------------------------------------------------------------- what students write


class ModuleCNN(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, 16, 5), nn.Conv2d(16, 32, 5)
        self.fc = nn.Linear(512, 10)

    def features(self, x: torch.Tensor) -> torch.Tensor:
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        return F.max_pool2d(self.conv2(x).relu(), 2).flatten(1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(F.dropout(self.features(x), 0.5, training=self.training))


def functional_cnn(x: torch.Tensor, w: Any, *, training: bool) -> torch.Tensor:
    x = F.max_pool2d(F.relu(F.conv2d(x, w[0], w[1])), 2)
    x = F.max_pool2d(F.relu(F.conv2d(x, w[2], w[3])), 2).flatten(1)
    return F.linear(F.dropout(x, 0.5, training), w[4], w[5])


def weights() -> list[torch.Tensor]:
    shapes = [(16, 1, 5, 5), (16,), (32, 16, 5, 5), (32,), (10, 512), (10,)]
    return [torch.randn(shape) * 0.1 for shape in shapes]


class ListCNN(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.w: Any = nn.ParameterList([nn.Parameter(weight) for weight in weights()])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return functional_cnn(x, self.w, training=self.training)


class PlainListCNN(ListCNN):
    def __init__(self) -> None:
        super().__init__()
        plain = [nn.Parameter(weight) for weight in weights()]
        del self.w
        self.w = plain
        self.registered = nn.Parameter(torch.zeros(1))


class PlainTensorCNN(ListCNN):
    def __init__(self) -> None:
        super().__init__()
        del self.w
        self.w = [weight.requires_grad_() for weight in weights()]


class DictCNN(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.w = nn.ParameterDict({str(i): nn.Parameter(weight) for i, weight in enumerate(weights())})

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return functional_cnn(x, list(self.w.values()), training=self.training)


class FunctionalBlock(nn.Module):
    def __init__(self, *, buffers: bool = True) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.empty(64, 3, 3, 3))
        nn.init.kaiming_uniform_(self.w, a=5**0.5)
        self.b, self.gamma, self.beta = (nn.Parameter(torch.full((64,), value)) for value in (0.1, 1.0, 0.0))
        self.running_mean: torch.Tensor
        self.running_var: torch.Tensor
        if buffers:
            self.register_buffer("running_mean", torch.zeros(64))
            self.register_buffer("running_var", torch.ones(64))
        else:
            self.running_mean, self.running_var = torch.zeros(64), torch.ones(64)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.conv2d(x, self.w, self.b, padding=1)
        x = F.batch_norm(x, self.running_mean, self.running_var, self.gamma, self.beta, self.training, 0.1, 1e-5)
        return F.dropout(F.max_pool2d(F.relu(x), 2), 0.2, self.training)


class HandWrittenNorm(FunctionalBlock):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.conv2d(x, self.w, self.b, padding=1)
        if self.training:
            mean, var = x.mean((0, 2, 3)), x.var((0, 2, 3), unbiased=False)
            with torch.no_grad():
                self.running_mean = 0.9 * self.running_mean + 0.1 * mean
                self.running_var.mul_(0.9).add_(0.1 * var)
        else:
            mean, var = self.running_mean, self.running_var
        return (x - mean[None, :, None, None]) / (var[None, :, None, None] + 1e-5).sqrt()


class WithForward(ModuleCNN):
    """A CNN whose logits go through one more function."""

    def __init__(self, tail: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.tail = tail

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.tail(super().forward(x))


def images(device: Any, channels: int = 1, n: int = 3) -> torch.Tensor:
    return torch.randn(n, channels, 28, 28).to(device)


def learn(model: nn.Module, device: torch.device, channels: int = 1) -> list[torch.Tensor]:
    """Move, run forward and backward; the output, the gradients and the buffers."""
    model = model.to(device)
    x = images(device, channels)
    out = model(x)
    labels = torch.tensor([1, 2, 3], device=device)
    loss = F.cross_entropy(out, labels) if out.dim() == 2 else out.square().mean()
    loss.backward()
    grads = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    assert grads
    return [out, *grads, *model.buffers()]


def with_tail(tail: Callable[[torch.Tensor], torch.Tensor]) -> Snippet:
    """A snippet that trains a CNN with that tail."""
    return lambda device: learn(WithForward(tail), device)


def as_right(name: str, snippet: Snippet) -> None:
    RIGHT[name] = snippet


def as_wrong(name: str, snippet: Snippet, message: str = SAME_DEVICE) -> None:
    WRONG[name] = (snippet, message)


as_right("module_cnn", lambda device: learn(ModuleCNN(), device))
as_right("parameter_list_cnn", lambda device: learn(ListCNN(), device))
as_right("parameter_dict_cnn", lambda device: learn(DictCNN(), device))
as_right("functional_block", lambda device: learn(FunctionalBlock(), device, 3))
as_right("functional_block_in_eval", lambda device: learn(FunctionalBlock().eval(), device, 3))
as_right("hand_written_norm", lambda device: learn(HandWrittenNorm(), device, 3))
as_right(
    "module_block",
    lambda device: learn(
        nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2), nn.Dropout(0.2)), device, 3
    ),
)
as_right("zeros_on_x_device", with_tail(lambda y: y + torch.zeros(10, device=y.device) + torch.ones(10).to(y)))
as_right("new_methods", with_tail(lambda y: y + y.new_zeros(10) + y.new_tensor([1.0]) + y.new_full((10,), 2.0)))
as_right("like_functions", with_tail(lambda y: y + torch.ones_like(y) + torch.zeros_like(y, dtype=torch.float64)))
as_right("zero_dim_cpu_scalar", with_tail(lambda y: torch.where(y > 0, y * torch.tensor(2.0), torch.tensor(0.5))))
as_right("item_in_forward", with_tail(lambda y: y * 2 if y.sum().item() > 0 or float(y[0, 0]) > 0 else y))
as_right("boolean_mask", with_tail(lambda y: y - y[y > 0].mean()))
as_right("index_tensor_from_cpu", with_tail(lambda y: y[torch.arange(y.shape[0])]))
as_right(
    "arange_on_device", with_tail(lambda y: y + F.embedding(torch.arange(10, device=y.device), y.new_ones(10, 1)).T)
)
as_right("one_hot", with_tail(lambda y: y * F.one_hot(y.argmax(1), 10)))
as_right(
    "split_and_unbind", with_tail(lambda y: torch.cat([y.split(4, 1)[0], y.unbind(1)[9][:, None].expand(-1, 6)], 1))
)
as_right("cat_stack_chunk", with_tail(lambda y: torch.stack([torch.cat(y.chunk(2, 1), 1), y]).sum(0)))
as_right("guarded_cuda_call", with_tail(lambda y: y + (torch.zeros(10).cuda() if y.is_cuda else torch.zeros(10))))
as_right(
    "einsum_and_matmul", with_tail(lambda y: torch.einsum("ni,ij->nj", y, torch.eye(10, device=y.device)) @ y.T @ y)
)
as_right("log_through_cpu_numpy", with_tail(lambda y: y * float(y.detach().cpu().numpy().mean())))
as_right("cpu_round_trip_with_gradient", with_tail(lambda y: (y.cpu() * torch.ones(10)).to(y.device)))
as_right("recurrent", lambda device: learn(Recurrent(), device))


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.rnn, self.fc = nn.LSTM(28, 12, batch_first=True), nn.Linear(12, 10)
        self.attention = nn.TransformerEncoderLayer(12, 2, 16, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.attention(self.rnn(x.squeeze(1))[0])[:, -1])


@right
def packed_sequences(device: torch.device) -> Any:
    x = torch.ones(2, 3, 4, device=device, requires_grad=True)
    packed = nn.utils.rnn.pack_padded_sequence(x, torch.tensor([3, 2]), batch_first=True)
    out, _ = nn.utils.rnn.pad_packed_sequence(nn.GRU(4, 5, batch_first=True).to(device)(packed)[0], batch_first=True)
    out.sum().backward()
    return [out, x.grad]


class SGD:
    """Plain gradient descent: torch.optim costs seconds to import, and one test does."""

    def __init__(self, parameters: Any, lr: float) -> None:
        self.parameters, self.lr = list(parameters), lr

    def zero_grad(self) -> None:
        for parameter in self.parameters:
            parameter.grad = None

    @torch.no_grad()
    def step(self) -> None:
        torch._foreach_add_(self.parameters, [p.grad for p in self.parameters], alpha=-self.lr)


def train_epoch(model: nn.Module, batches: Any, optimizer: Any, device: Any) -> float:
    model.train()
    total, count = 0.0, 0
    for x, y in batches:
        x, y = x.to(device, non_blocking=True), y.to(device)  # noqa: PLW2901  # as everybody writes it
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        total, count = total + loss.item() * len(x), count + len(x)
    return total / count


@torch.no_grad()
def accuracy(model: nn.Module, batches: Any, device: Any) -> float:
    was = model.training
    model.eval()
    hits = sum(int((model(x.to(device)).argmax(1) == y.to(device)).sum()) for x, y in batches)
    model.train(was)
    return hits / sum(len(y) for _, y in batches)


def digits() -> list[tuple[torch.Tensor, torch.Tensor]]:
    return [(images("cpu", n=4), torch.randint(10, (4,))) for _ in range(2)]


@right
def train_loop_with_optimizer_made_before_the_move(device: torch.device) -> Any:
    batches, model = digits(), ModuleCNN()
    optimizer = SGD(model.parameters(), 0.1)
    model.to(device)
    losses = [train_epoch(model, batches, optimizer, device) for _ in range(2)]
    return [torch.tensor([*losses, accuracy(model, batches, device)]).to(device), *model.parameters()]


@right
def loss_sum_kept_on_the_device(device: torch.device) -> Any:
    total = torch.zeros((), device=device)
    for x, y in digits():
        total += F.cross_entropy(x.to(device).flatten(1)[:, :10], y.to(device))
    return total


@right
def module_level_device(_device: torch.device) -> Any:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return learn(ModuleCNN().to(device), device)


@right
def accelerator_idiom(_device: torch.device) -> Any:
    accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    return learn(ModuleCNN(), accelerator or torch.device("cpu"))


@right
def layers_made_on_the_device(device: torch.device) -> Any:
    layer = nn.Linear(4, 2, device=device)
    nn.init.eye_(layer.weight)
    nn.init.orthogonal_(layer.bias[None])
    conv = nn.Conv2d(1, 2, 3).to_empty(device=device)
    return [layer(torch.eye(4, device=device)), *(torch.zeros_like(p) for p in conv.parameters())]


@right
def lazy_layer_moved_before_its_first_use(device: torch.device) -> Any:
    model = nn.Sequential(nn.Flatten(), nn.LazyLinear(3)).to(device)
    return [model(images(device)), *model.parameters()]


@right
def default_device(device: torch.device) -> Any:
    torch.set_default_device(device)
    try:
        made = [torch.zeros(2), torch.tensor([1.0]), torch.arange(3), nn.Linear(2, 2).weight, torch.full((2,), 1)]
        made.append(torch.linspace(0, 1, 3) + torch.eye(3) + torch.empty(3).fill_(1) + torch.rand(3) + torch.randn(3))
        assert torch.zeros(1, device="cpu").device.type == "cpu"
        assert torch.get_default_device().type == device.type
    finally:
        torch.set_default_device(None)
    assert torch.zeros(1).device.type == "cpu"
    return made


@right
def device_as_context(device: torch.device) -> Any:
    with device:
        return [torch.zeros(2), torch.as_tensor([1.0, 2.0]), torch.randint(3, (2,)), torch.randperm(4)]


@right
def from_numpy_then_moved(device: torch.device) -> Any:
    array = torch.arange(3.0).numpy()
    aliased = torch.as_tensor(array, device=device)
    assert torch.from_numpy(array).device.type == "cpu"
    return [aliased * 2, torch.tensor(array, device=device), torch.from_numpy(array).to(device, torch.float64)]


@right
def tensor_of_a_tensor_keeps_its_device(device: torch.device) -> Any:
    x = torch.ones(2, device=device)
    return [torch.as_tensor(x), torch.asarray(x), x.new_ones(2), x.type(torch.float64), torch.ones(2).type_as(x)]


@right
def every_signature_of_to(device: torch.device) -> Any:
    x = torch.ones(2)
    other = torch.zeros(1, dtype=torch.float64, device=device)
    return [
        x.to(device),
        x.to(device, torch.float64),
        x.to(device, torch.float64, True, True),
        x.to(device=device, dtype=torch.int64, copy=True),
        x.to(other),
        x.to(tensor=other),  # type: ignore[call-overload]  # torch's own name for it
        other.to(torch.float32),
        other.to(dtype=torch.int32, non_blocking=True),
        torch.ones(1, 1, 2, 2).to(device, memory_format=torch.channels_last),
    ]


@right
def in_place_views_out_and_data(device: torch.device) -> Any:
    x = torch.zeros(4, device=device)
    x[0], x[1:3] = 1.0, torch.tensor([2.0, 3.0])
    x[torch.tensor([False, False, False, True])] = 4.0
    x.add_(1).mul_(x.view(2, 2).t().reshape(-1)).copy_(x.detach().cpu())
    out = torch.empty(4, device=device)
    torch.add(x, x, out=out)
    parameter = nn.Parameter(torch.zeros(4))
    parameter.data = out
    parameter.data[0] = 7
    return [x, out, parameter.data, parameter * 1, x[1:], x.clone(), x.resize_(2, 2)]


@right
def setting_gradients(device: torch.device) -> Any:
    weight = nn.Parameter(torch.ones(3, device=device))
    weight.grad = torch.ones(3, device=device)
    (weight * 2).sum().backward()
    return [weight.grad, *torch.autograd.grad((weight**3).sum(), weight), weight.new_zeros(3)]


@right
def backward_hooks(device: torch.device) -> Any:
    weight, seen = torch.ones(3, requires_grad=True, device=device), []
    weight.register_hook(lambda grad: grad + torch.ones(3, device=grad.device))
    module = nn.Linear(3, 1).to(device)
    module.register_full_backward_hook(lambda _module, _inputs, outputs: seen.append(outputs[0].is_cuda))  # type: ignore[index]
    module(weight).sum().backward()
    assert seen == [device.type == "cuda"]
    return weight.grad


class Square(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(x)
        return x * x

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> torch.Tensor:
        (x,) = ctx.saved_tensors
        return grads[0] * 2 * x + torch.zeros(x.shape, device=x.device)


@right
def custom_autograd_function(device: torch.device) -> Any:
    x = torch.arange(3.0, device=device).requires_grad_()
    Square.apply(x).sum().backward()
    return x.grad


@right
def gradient_formulas_that_make_zeros(device: torch.device) -> Any:
    x = torch.randn(4, 6, device=device, requires_grad=True)
    unused, used = x.split(3, 1)
    pieces = [
        used.max(0)[0],
        x.unbind(0)[1],
        x.sort()[0][:, 0],
        x.median(1)[0],
        x.index_select(0, x.argmax(0)[:1]),
        x[0],
    ]
    torch.stack([piece.sum() for piece in pieces]).sum().backward()
    assert x.grad is not None
    return [x.grad, x.grad * torch.ones(6, device=device), unused]


@right
def copies_of_models_and_tensors(device: torch.device) -> Any:
    model = FunctionalBlock().to(device)
    twin = copy.deepcopy(model)
    tensors = copy.deepcopy({"view": torch.arange(6.0, device=device)[2:]})
    return [*twin.state_dict().values(), *copy.copy(model).parameters(), tensors["view"], copy.copy(tensors["view"])]


@right
def state_dicts_cross_devices(device: torch.device) -> Any:
    source, target = FunctionalBlock(), FunctionalBlock().to(device)
    target.load_state_dict(source.state_dict())
    back = FunctionalBlock()
    back.load_state_dict(target.state_dict())
    assert not back.w.is_cuda
    with torch.no_grad():
        target.w.copy_(source.w * 2)
    return list(target.state_dict().values())


@right
def save_and_load(device: torch.device) -> Any:
    file = io.BytesIO()
    torch.save({"w": torch.ones(2, device=device), "c": torch.zeros(1)}, file)

    def load(where: Any = None) -> Any:
        file.seek(0)
        return torch.load(file, map_location=where)

    assert load("cpu")["w"].device.type == "cpu"
    assert load()["c"].device.type == "cpu"
    return [load()["w"], load(device)["w"], load(device)["c"], load(lambda _storage, _location: None)["w"]]


@right
def generator_on_the_device(device: torch.device) -> Any:
    generator = torch.Generator(device=device).manual_seed(3)
    assert generator.device.type == device.type
    assert isinstance(torch.default_generator, torch.Generator)
    x = torch.rand(3, generator=generator, device=device)
    return [x, torch.bernoulli(x, generator=generator), x.normal_(generator=generator)]


@right
def random_numbers_by_input(device: torch.device) -> Any:
    x = torch.rand(3, device=device)
    return [torch.randn_like(x), torch.bernoulli(x), torch.multinomial(x, 2), torch.normal(x, x), F.dropout(x)]


@right
def checkpointed_forward(device: torch.device) -> Any:
    from torch.utils.checkpoint import checkpoint  # noqa: PLC0415  # imports much that no other test needs

    model = ModuleCNN().to(device)
    out = checkpoint(model, images(device), use_reentrant=False)
    out.sum().backward()
    return [out, *(parameter.grad for parameter in model.parameters())]


@right
def threads(device: torch.device) -> Any:
    made: list[torch.Tensor] = []
    thread = threading.Thread(target=lambda: made.append(torch.ones(2, device=device) + torch.ones(2).to(device)))
    thread.start()
    thread.join()
    return made


@right
def data_loader_with_pinned_memory(device: torch.device) -> Any:
    data = torch.utils.data.TensorDataset(torch.randn(4, 2), torch.arange(4))
    loader = torch.utils.data.DataLoader(data, batch_size=2, shuffle=True, pin_memory=device.type == "cuda")
    return [part.to(device, non_blocking=True) for batch in loader for part in batch]


@right
def functional_call_with_other_weights(device: torch.device) -> Any:
    model = ModuleCNN().eval()
    state = {name: parameter.detach().to(device) for name, parameter in model.named_parameters()}
    return torch.func.functional_call(model, state, (images(device),))


# ------------------------------------------------------------------------------------------------ what a GPU refuses


def _alone(device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.ones(3, 3, device=device), torch.ones(3, 3)


def as_wrong_pair(name: str, use: Callable[[torch.Tensor, torch.Tensor], Any], message: str = SAME_DEVICE) -> None:
    """Register a use of a CUDA and a CPU matrix, in this order."""
    as_wrong(name, lambda device: use(*_alone(device)), message)


class ClassAttribute(ModuleCNN):
    scale = torch.ones(10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x) * self.scale


class LayerMadeInForward(ModuleCNN):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.Linear(512, 10)(self.features(x))


class PlainListOfLayers(ModuleCNN):
    def __init__(self) -> None:
        super().__init__()
        self.more = [nn.Linear(10, 10)]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.more[0](super().forward(x))


class CpuInForward(ModuleCNN):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x.cpu())


NUMPY = "can't convert cuda:0 device type tensor to numpy"
as_wrong("plain_tensor_weights", lambda device: PlainTensorCNN().to(device)(images(device)))
as_wrong("plain_list_of_parameters", lambda device: PlainListCNN().to(device)(images(device)))
as_wrong("class_attribute_tensor", lambda device: learn(ClassAttribute(), device))
as_wrong("layer_made_in_forward", lambda device: learn(LayerMadeInForward(), device))
as_wrong("plain_list_of_layers", lambda device: learn(PlainListOfLayers(), device))
as_wrong("running_statistics_as_plain_tensors", lambda device: learn(FunctionalBlock(buffers=False), device, 3))
as_wrong("plain_running_statistics_in_eval", lambda device: learn(FunctionalBlock(buffers=False).eval(), device, 3))
as_wrong("hand_written_norm_on_plain_tensors", lambda device: learn(HandWrittenNorm(buffers=False), device, 3))
as_wrong("cpu_call_before_the_layers", lambda device: learn(CpuInForward(), device))
as_wrong("zeros_in_forward", with_tail(lambda y: y + torch.zeros(y.shape[0], 10)))
as_wrong("legacy_tensor_constructor_in_forward", with_tail(lambda y: y + torch.Tensor([[1.0]])))
as_wrong("legacy_tensor_by_size_in_forward", with_tail(lambda y: y * torch.Tensor(10).zero_()))
as_wrong("float_tensor_in_forward", with_tail(lambda y: y + torch.FloatTensor([1.0])))
as_wrong("randn_noise_in_forward", with_tail(lambda y: y + torch.randn(y.shape)))
as_wrong("dropout_mask_made_on_cpu", with_tail(lambda y: y * (torch.rand(y.shape) > 0.5)))
as_wrong("mask_fill_from_cpu", with_tail(lambda y: y.masked_fill(torch.zeros(10, dtype=torch.bool), 0.0)))
as_wrong("numpy_in_forward", with_tail(lambda y: y + float(y.detach().numpy().mean())), NUMPY)
as_wrong("from_numpy_in_forward", with_tail(lambda y: y + torch.from_numpy(y.detach().cpu().numpy())))
as_wrong("cpu_output_meets_labels", with_tail(lambda y: y.cpu()))
as_wrong("cpu_part_in_cat", with_tail(lambda y: torch.cat([y, torch.zeros(3, 1)], 1)))
as_wrong("cpu_part_in_one_hot_product", with_tail(lambda y: y * F.one_hot(y.argmax(1).cpu(), 10)))
as_wrong("embedding_of_cpu_positions", with_tail(lambda y: y + F.embedding(torch.arange(10), y.new_ones(10, 1)).T))
as_wrong("input_left_on_cpu", lambda device: ModuleCNN().to(device)(images("cpu")))
as_wrong("model_left_on_cpu", lambda device: ModuleCNN()(images(device)))
as_wrong("labels_left_on_cpu", lambda device: F.cross_entropy(torch.zeros(2, 3, device=device), torch.tensor([1, 2])))
as_wrong("accuracy_with_labels_on_cpu", lambda device: torch.zeros(4, 2, device=device).argmax(1) == torch.zeros(4))
as_wrong("cpu_bias_of_a_conv", lambda device: F.conv2d(images(device), images(device)[:, :, :3, :3], torch.zeros(3)))
as_wrong_pair("addition", lambda a, b: a + b)
as_wrong_pair("addition_the_other_way", lambda a, b: b + a)
as_wrong_pair("matrix_product", lambda a, b: a @ b)
as_wrong_pair("comparison", lambda a, b: a == b)
as_wrong_pair("equal", torch.equal)
as_wrong_pair("allclose", torch.allclose)
as_wrong_pair("where", lambda a, b: torch.where(a > 0, a, b))
as_wrong_pair("stack_of_scalars", lambda a, b: torch.stack([a.sum(), b.sum()]))
as_wrong_pair("cpu_total_in_place", lambda a, b: b.sum().add_(a.sum()))
as_wrong_pair("out_on_the_other_side", lambda a, b: torch.add(a, a, out=b))
as_wrong_pair("foreach_with_one_cpu_gradient", lambda a, b: torch._foreach_add_([a, a], [a, b]))
as_wrong_pair("boolean_mask_put_with_cpu_values", lambda a, b: a.index_put_((a > 0,), b.flatten()))
as_wrong_pair("cuda_mask_on_cpu_tensor", lambda a, b: b[a > 0], "indices should be either on cpu or on the same device")
as_wrong_pair("cpu_index_in_gather", lambda a, b: a.gather(1, b.long()))
as_wrong_pair("assigned_gradient", lambda a, b: setattr(a, "grad", b), "assigned grad has data located on a different")
as_wrong_pair("numpy_of_a_module_output", lambda a, _b: memoryview(__import__("numpy").asarray(a)), NUMPY)
as_wrong_pair("pinning_a_cuda_tensor", lambda a, _b: a.pin_memory(), "cannot pin 'torch.cuda.FloatTensor'")
as_wrong_pair("cuda_call_with_a_cpu_device", lambda a, _b: a.cuda("cpu"), "must be cuda device")
as_wrong("second_gpu_by_to", lambda _device: torch.ones(1).to("cuda:1"), "invalid device ordinal")
as_wrong("second_gpu_by_cuda", lambda _device: torch.ones(1).cuda(1), "invalid device ordinal")
as_wrong("second_gpu_in_a_factory", lambda _device: torch.zeros(1, device="cuda:1"), "invalid device ordinal")
as_wrong("second_gpu_for_a_module", lambda _device: nn.Linear(1, 1).to(1), "invalid device ordinal")
as_wrong(
    "cpu_generator_for_a_cuda_tensor",
    lambda device: torch.rand(2, device=device, generator=torch.Generator()),
    "Expected a 'cuda' device type for generator but found 'cpu'",
)


@wrong()
def copied_weights_stay_on_cpu(device: torch.device) -> Any:
    model = ModuleCNN().to(device)
    model.fc.weight = nn.Parameter(torch.zeros(10, 512))
    return model(images(device))


@wrong()
def weight_data_replaced_by_a_cpu_tensor(device: torch.device) -> Any:
    model = ModuleCNN().to(device)
    model.fc.weight.data = torch.zeros(10, 512)
    return model(images(device))


@wrong()
def deep_copied_tensor_is_still_on_cuda(device: torch.device) -> Any:
    return copy.deepcopy(torch.ones(2, device=device)) + torch.ones(2)


@wrong()
def cpu_zeros_in_a_custom_backward(device: torch.device) -> Any:
    class Bad(Square):
        @staticmethod
        def backward(ctx: Any, *grads: torch.Tensor) -> torch.Tensor:
            return grads[0] * torch.zeros(3)

    Bad.apply(torch.ones(3, device=device, requires_grad=True)).sum().backward()


@wrong()
def cpu_zeros_in_a_backward_hook(device: torch.device) -> Any:
    weight = torch.ones(3, device=device, requires_grad=True)
    weight.register_hook(lambda grad: grad * torch.zeros(3))
    (weight * 2).sum().backward()


@wrong()
def default_device_left_at_cuda_for_cpu_data(device: torch.device) -> Any:
    with device:
        model = ModuleCNN()
    return model(images("cpu"))


@wrong()
def mix_in_an_operator_called_by_a_python_function(device: torch.device) -> Any:
    x = torch.ones(1, 2, 4, device=device)
    attention = nn.MultiheadAttention(4, 2).to(device)
    return attention(x, x, x, attn_mask=torch.zeros(1, 1))


# ------------------------------------------------------------------------------------------------------------- tests


def flat(result: Any) -> list[torch.Tensor]:
    """The tensors of a snippet's result."""
    return [result] if isinstance(result, torch.Tensor) else list(result)


@pytest.mark.parametrize("name", sorted(RIGHT))
def test_right_program_gives_the_cpus_values_on_cuda(name: str) -> None:
    """A right program runs on the simulated device, and every tensor it returns is there and equals the CPU's."""
    torch.manual_seed(0)
    on_cpu = [tensor.detach() for tensor in flat(RIGHT[name](torch.device("cpu")))]
    torch.manual_seed(0)
    with simulated_cuda():
        on_cuda = flat(RIGHT[name](torch.device("cuda")))
        assert [device_of(tensor) for tensor in on_cuda] == ["cuda:0"] * len(on_cuda)
        moved = [tensor.detach().cpu() for tensor in on_cuda]
    assert len(moved) == len(on_cpu) > 0
    for ours, theirs in zip(moved, on_cpu, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("name", sorted(WRONG))
def test_wrong_program_fails_as_on_a_gpu(name: str, cuda: torch.device) -> None:
    """A mistake that a GPU refuses is refused, in torch's words."""
    snippet, message = WRONG[name]
    with pytest.raises((RuntimeError, TypeError)) as caught:
        snippet(cuda)
    assert message in str(caught.value)


def test_message_names_the_operator_and_the_shapes(cuda: torch.device) -> None:
    """The error says which operator met which shapes on which device."""
    with pytest.raises(RuntimeError, match=r"in mul: shape \(2, 3\) on cuda:0, shape \(3,\) on cpu"):
        torch.ones(2, 3, device=cuda) * torch.ones(3)


def test_what_a_tensor_says_of_its_device(cuda: torch.device) -> None:
    """All the ways to ask a tensor for its device agree."""
    x, here = torch.ones(2).cuda(), torch.ones(2)
    assert (x.device, x.is_cuda, x.is_cpu, x.get_device()) == (torch.device("cuda", 0), True, False, 0)
    assert (here.device, here.is_cuda, here.is_cpu, here.get_device()) == (torch.device("cpu"), False, True, -1)
    assert x.device == torch.device("cuda:0")
    assert [cuda.index, x.device.index, str(x.device)] == [None, 0, "cuda:0"]
    assert "device='cuda:0'" in repr(x)
    assert "device='cuda:0'" in repr(nn.Parameter(x))
    assert "device" not in repr(here)
    assert (x.type(), here.type()) == ("torch.cuda.FloatTensor", "torch.FloatTensor")
    assert here.type("torch.cuda.FloatTensor").is_cuda
    assert not x.type("torch.FloatTensor").is_cuda
    assert 1.0 in x
    assert (x.tolist(), x[0].item(), bool(x[0]), len(x)) == ([1.0, 1.0], 1.0, True, 2)


def test_moving_there_and_back(cuda: torch.device) -> None:
    """A move to where a tensor is gives the tensor itself; a move elsewhere gives a copy; numbers name devices."""
    x = torch.ones(2)
    y = x.cuda(0)
    assert x.to("cpu") is x
    assert y.to(cuda) is y
    assert y.cuda() is y
    y.zero_()
    assert x.tolist() == [1.0, 1.0]
    assert x.to(0).is_cuda
    assert nn.Linear(1, 1).cuda(0).weight.is_cuda
    assert nn.Linear(1, 1).to(0).weight.is_cuda
    assert torch.zeros(1, device=torch.cuda.current_device()).is_cuda
    assert torch.zeros_like(y, device="cpu").is_cpu
    assert y.new_zeros(1, device="cpu").is_cpu
    assert not y.cpu().numpy().any()
    for aliasing in (torch.as_tensor, torch.asarray):
        aliasing(x, device=cuda).zero_()
        aliasing(x.numpy(), device=cuda).zero_()
        assert (x.device.type, x.tolist()) == ("cpu", [1.0, 1.0])
    assert not y.numpy(force=True).any()


def test_gradients_cross_with_a_copy(cuda: torch.device) -> None:
    """The gradient of a CPU leaf that was moved to CUDA is on the CPU, and that of a CUDA leaf on CUDA."""
    here = torch.ones(2, requires_grad=True)
    there = torch.ones(2, requires_grad=True, device=cuda)
    ((here.cuda() * there).cpu() * torch.ones(2)).sum().backward()
    assert here.grad is not None
    assert there.grad is not None
    assert (here.grad.device.type, there.grad.device.type) == ("cpu", "cuda")


def test_module_moves_keep_the_parameter_objects(cuda: torch.device) -> None:
    """`Module.to` moves parameters, gradients and buffers in place, as torch does."""
    model = FunctionalBlock()
    model(images("cpu", 3)).sum().backward()
    before = list(model.parameters())
    model.to(cuda)
    assert all(new is old for new, old in zip(model.parameters(), before, strict=True))
    assert model.w.grad is not None
    assert model.w.grad.is_cuda
    assert {buffer.device.type for buffer in model.buffers()} == {"cuda"}
    assert {parameter.device.type for parameter in model.cpu().parameters()} == {"cpu"}


def test_half_moved_foreach_lists(cuda: torch.device) -> None:
    """Operators over lists check and mark each position alone, as optimizers with parameters on two devices need."""
    mixed = torch._foreach_add([torch.ones(2, device=cuda), torch.ones(2)], [torch.ones(2, device=cuda), torch.ones(2)])
    assert [tensor.device.type for tensor in mixed] == ["cuda", "cpu"]


def test_tensors_made_inside_an_operator(cuda: torch.device) -> None:
    """A tensor that an operator makes from nothing is where the call's arguments are, or goes with what it meets."""
    assert F.one_hot(torch.zeros(0, dtype=torch.long, device=cuda), 3).is_cuda
    assert F.one_hot(torch.zeros(0, dtype=torch.long), 3).is_cpu
    undecided = torch.ones(2)
    sides.mark(undecided, sides.EITHER)
    with torch._C.DisableTorchFunction():  # as inside an operator, where nothing sees the call as a student's
        scaled = undecided * torch.tensor(2.0)
        assert (scaled + torch.ones(2, device=cuda)).is_cuda
    assert sides.side_of(scaled) == sides.CUDA
    with pytest.raises(RuntimeError, match=SAME_DEVICE):
        (undecided + torch.ones(2)).add(torch.ones(2, device=cuda))


def test_cuda_library_is_harmless(cuda: torch.device) -> None:
    """What programs call around their computation exists and does nothing."""
    assert (torch.cuda.is_available(), torch.cuda.device_count(), torch.cuda.current_device()) == (True, 1, 0)
    assert torch.cuda.get_device_name(0)
    assert torch.cuda.get_device_properties(cuda).total_memory > 0
    torch.cuda.manual_seed_all(0)
    torch.cuda.set_device(0)
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    start.record()
    with torch.cuda.stream(torch.cuda.Stream()), torch.cuda.device(0):
        x = torch.ones(2).pin_memory().to(cuda, non_blocking=True)
        x.record_stream(torch.cuda.current_stream())
        assert torch.zeros(2, pin_memory=True).is_cpu
    end.record()
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    assert start.elapsed_time(end) >= 0
    assert torch.cuda.memory_allocated() == torch.cuda.max_memory_allocated() == 0
    with torch.random.fork_rng():
        torch.manual_seed(1)
    assert x.is_cuda


def test_autocast(cuda: torch.device) -> None:
    """`torch.autocast` for CUDA refuses nothing, and the computation stays as it is on the CPU."""
    with torch.autocast("cuda"), torch.autocast("cuda", dtype=torch.bfloat16):
        assert ModuleCNN().to(cuda)(images(cuda)).dtype == torch.float32


def test_nested_contexts_and_the_modes_of_others(cuda: torch.device) -> None:
    """Entered twice it is one machine, which the inner exit leaves standing, also below modes of torch's own."""
    x = torch.ones(2, device=cuda)
    with simulated_cuda():
        assert (x + torch.ones(2, device=cuda)).is_cuda
        assert torch.rand(1, device=cuda, generator=torch.Generator(cuda)).is_cuda
    assert torch.cuda.is_available()
    with torch._C.DisableTorchFunction():  # as inside a tensor subclass's own handler
        assert torch.zeros(2, device=cuda).is_cuda
    with torch.inference_mode(), cuda:
        assert (x + torch.ones(2)).is_cuda


OPTIMIZERS = """
import torch
from autograder.confined.simgpu import simulated_cuda
with simulated_cuda():
    for make in (torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW, torch.optim.RMSprop):
        for foreach in (None, True, False):
            model = torch.nn.Linear(3, 2)
            options = {"momentum": 0.9} if make is torch.optim.SGD else {}
            optimizer = make(model.parameters(), lr=0.1, foreach=foreach, **options)
            model.to("cuda")
            before = model.weight.detach().clone()
            for _ in range(2):
                optimizer.zero_grad()
                model(torch.ones(4, 3, device="cuda")).sum().backward()
                torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
            assert model.weight.is_cuda and not torch.equal(before, model.weight)
            state = optimizer.state[model.weight]
            assert all(value.is_cuda for value in state.values() if torch.is_tensor(value) and value.dim())
    scaler = torch.amp.GradScaler("cuda")
    loss = model(torch.ones(4, 3, device="cuda")).sum()
    scaler.scale(loss).backward()
    scaler.step(optimizer)
    scaler.update()
print("done")
"""


def test_torchs_optimizers() -> None:
    """torch.optim steps CUDA parameters, with foreach and without; in its own process, as it imports half of torch."""
    run = subprocess.run(  # its first warnings are torch's own business
        [sys.executable, "-c", OPTIMIZERS], capture_output=True, text=True, timeout=300, check=False, env={**os.environ}
    )
    assert run.stdout.strip() == "done", run.stderr


def test_entering_does_not_import_dynamo() -> None:
    """The first operator under the modes must not import torch._dynamo, which takes seconds."""
    script = (
        "import sys, torch\n"
        "from autograder.confined.simgpu import simulated_cuda\n"
        "with simulated_cuda():\n"
        "    torch.nn.Linear(2, 2).cuda()(torch.ones(1, 2).cuda()).sum().backward()\n"
        "print('torch._dynamo' in sys.modules)"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=300, check=False)
    assert run.stdout.strip() == "False", run.stderr


def _public_state() -> dict[str, Any]:
    """What the simulation replaces, as it is now."""
    owners = (
        torch,
        torch.cuda,
        torch.accelerator,
        torch.Tensor,
        torch.nn.Module,
        threading.Thread,
    )
    modules = (torch.serialization, torch.functional, torch.nn.functional, torch._tensor, torch.autograd)
    backends = (torch.backends.cudnn,)
    return {
        f"{owner!r}.{name}": value for owner in (*owners, *modules, *backends) for name, value in vars(owner).items()
    }


def test_nothing_leaks_after_exit() -> None:
    """After the context torch is as it was, also when the program in it failed or left its default device behind."""
    torch.cuda.is_available()  # lets torch cache what it will
    before = _public_state()
    with contextlib.suppress(ZeroDivisionError), simulated_cuda():
        torch.set_default_device("cuda")
        x = torch.ones(2)
        raise ZeroDivisionError
    assert x.device == torch.device("cpu")
    after = _public_state()
    changed = [name for name in before.keys() | after.keys() if before.get(name) is not after.get(name)]
    assert changed == []
    assert not torch.cuda._is_compiled() or torch.cuda.device_count() >= 0
    assert torch.zeros(1).device == torch.device("cpu")
    assert torch._C._len_torch_function_stack() == torch._C._len_torch_dispatch_stack() == 0
    # What was marked stays readable for the one who sends it home, and computes as the CPU tensor that it is.
    assert device_of(x) == "cuda:0"
    assert (x + torch.ones(2)).tolist() == [2.0, 2.0]
    assert device_of(torch.ones(1)) == "cpu"


def test_device_of_works_from_within(cuda: torch.device) -> None:
    """`device_of` answers for parameters, views, sparse tensors and torch.func's wrappers."""
    x = torch.eye(2, device=cuda)
    asked = [nn.Parameter(x), x[0], x.T, x.to_sparse(), torch.zeros(0, device=cuda)]
    assert [device_of(tensor) for tensor in asked] == ["cuda:0"] * 5
    assert device_of(torch.empty(1, device="meta")) == "meta"
    torch.vmap(lambda row: row + row.sum())(x)
