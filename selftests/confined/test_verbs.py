"""What a suite can ask of a model: its tensors, its parts, what runs in it, and what it does without dropout."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812  # as everybody writes it
from torch import nn
from torch.nn.functional import dropout as renamed

from autograder.confined.verbs import VERBS

SHARED = torch.ones(2)


class Holder(nn.Module):
    """Holds a tensor in every place that students keep one."""

    on_the_class = torch.zeros(3)
    _private_on_the_class = torch.zeros(4)

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 3)
        self.norm = nn.BatchNorm1d(3)
        self.again = self.layer
        self.own = nn.Parameter(torch.zeros(1))
        self.attribute = torch.zeros(5, requires_grad=True)
        self._private = torch.zeros(5)
        self.shared, self.shared_too = SHARED, [SHARED]
        self.listed = [torch.zeros(6), (torch.zeros(7), "text")]
        self.named = {"a": torch.zeros(8), "deep": {"b": [torch.zeros(9)]}}
        self.counts = torch.zeros(10, dtype=torch.int64)
        self.looped: list[Any] = []
        self.looped.append(self.looped)
        self.hidden_layers = [nn.Linear(1, 1)]


class Outer(nn.Module):
    """Holds a module that holds tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = Holder()


PATHS = {
    "layer.weight": "parameter",
    "layer.bias": "parameter",
    "norm.weight": "parameter",
    "norm.bias": "parameter",
    "own": "parameter",
    "norm.running_mean": "buffer",
    "norm.running_var": "buffer",
    "norm.num_batches_tracked": "buffer",
    "attribute": "loose",
    "_private": "loose",
    "shared": "loose",
    "listed.0": "loose",
    "listed.1.0": "loose",
    "named.a": "loose",
    "named.deep.b.0": "loose",
    "on_the_class": "loose",
    "_private_on_the_class": "loose",
}


def found(model: nn.Module) -> dict[str, str]:
    """What `tensors` finds, path to kind."""
    entries = VERBS["tensors"](model)
    assert len({path for path, _, _ in entries}) == len(entries)
    assert len({id(tensor) for _, _, tensor in entries}) == len(entries)
    return {path: kind for path, kind, _ in entries}


def test_every_tensor_is_found_once() -> None:
    """Registered or not, in attributes, lists, dicts and on the class, each tensor is found under one path."""
    model = Holder()
    assert {path: kind for path, kind in found(model).items() if not path.startswith("hidden_layers")} == PATHS


def test_tensors_of_submodules_are_found() -> None:
    """What a submodule keeps loosely is found under the submodule's path."""
    inner = {f"inner.{path}": kind for path, kind in PATHS.items()}
    assert {path: kind for path, kind in found(Outer()).items() if "hidden_layers" not in path} == inner


def test_layers_kept_in_a_plain_list_are_found_as_loose() -> None:
    """The weights of a layer that torch does not see, being in a plain list, are there and are loose."""
    assert {path: kind for path, kind in found(Holder()).items() if path.startswith("hidden_layers")} == {
        "hidden_layers.0.weight": "loose",
        "hidden_layers.0.bias": "loose",
    }


def test_values_are_assigned_in_place() -> None:
    """What `tensors` gave a path for can be set, wherever it is kept; the tensors stay the same objects."""
    model = Holder()
    before = {path: tensor for path, _, tensor in VERBS["tensors"](model)}
    values = {path: torch.full(tensor.shape, 3).to(tensor.dtype) for path, tensor in before.items()}
    VERBS["assign"](model, values)
    after = {path: tensor for path, _, tensor in VERBS["tensors"](model)}
    assert all(after[path] is before[path] and bool((after[path] == 3).all()) for path in before)
    assert model.layer.weight.requires_grad
    assert after["listed.0"][0] == 3
    with pytest.raises(KeyError):
        VERBS["assign"](model, {"nowhere": torch.zeros(1)})
    SHARED.fill_(1)
    Holder.on_the_class.zero_()


DROPOUTS: dict[str, Any] = {
    "nn.Dropout": nn.Dropout(0.5),
    "nn.Dropout2d": nn.Dropout2d(0.5),
    "nn.Dropout3d": nn.Dropout3d(0.5),
    "nn.AlphaDropout": nn.AlphaDropout(0.5),
    "nn.FeatureAlphaDropout": nn.FeatureAlphaDropout(0.5),
    "in place": nn.Dropout(0.5, inplace=True),
    "in a sequence": nn.Sequential(nn.Identity(), nn.Dropout(0.5)),
    "F.dropout": lambda x: F.dropout(x, 0.5),
    "F.dropout by keyword": lambda x: F.dropout(p=0.5, input=x),
    "F.dropout1d": lambda x: F.dropout1d(x.flatten(2), 0.5).reshape(x.shape),
    "F.dropout2d": lambda x: F.dropout2d(x, 0.5),
    "F.dropout renamed": lambda x: renamed(x, 0.5),
    "F.alpha_dropout": lambda x: F.alpha_dropout(x, 0.5, training=True),
    "torch.dropout": lambda x: torch.dropout(x, 0.5, True),
    "torch.dropout_": lambda x: torch.dropout_(x, 0.5, True),
    "torch.feature_dropout": lambda x: torch.feature_dropout(x, 0.5, True),
    "torch.alpha_dropout_": lambda x: torch.alpha_dropout_(x, 0.5, True),
}


@pytest.mark.parametrize("name", DROPOUTS)
def test_dropout_of_every_kind_can_be_taken_out(name: str) -> None:
    """For one calm call dropout hands its input back, under whatever name it is called; afterwards it drops again."""
    images = torch.ones(4, 8, 3, 3)
    assert torch.equal(VERBS["calmly"](DROPOUTS[name], images.clone()), images)
    assert not torch.equal(DROPOUTS[name](images.clone()), images)


def test_what_is_not_dropout_stays_when_calm() -> None:
    """A calm call changes no other function, random ones included."""
    model = nn.Sequential(nn.Linear(3, 2), nn.ReLU(), nn.BatchNorm1d(2))
    images = torch.randn(5, 3)
    assert torch.equal(VERBS["calmly"](model, images), model(images))
    assert not torch.equal(VERBS["calmly"](torch.rand_like, images), VERBS["calmly"](torch.rand_like, images))


def calm_now() -> bool:
    """Whether anything watches torch's functions."""
    return torch._C._len_torch_function_stack() > 0


def test_calm_lasts() -> None:
    """Once calm, dropout stays out for all that follows, training included, until the process ends."""
    assert not calm_now()
    VERBS["calm"]()
    try:
        images = torch.ones(50, requires_grad=True)
        output = nn.Dropout(0.5).train()(images)
        assert torch.equal(output, images)
        assert output.requires_grad
    finally:
        torch._C._pop_torch_function_stack()
    assert not calm_now()


def test_gradients_are_those_of_autograd() -> None:
    """With labels the loss is cross-entropy, with a cotangent the weighted sum; gradients come for every tensor."""
    model, images = nn.Linear(3, 4), torch.randn(5, 3)
    labels, cotangent = torch.tensor([0, 1, 2, 3, 0]), torch.randn(5, 4)
    for kwargs, loss in (
        ({"labels": labels}, F.cross_entropy(model(images), labels)),
        ({"cotangent": cotangent}, (model(images) * cotangent).sum()),
        ({}, model(images).sum()),
    ):
        weight, bias = torch.autograd.grad(loss, (model.weight, model.bias))
        for _ in range(2):  # asked again, gradients are not added up
            answer = VERBS["gradients"](model, images, **kwargs)
        torch.testing.assert_close(answer["loss"], loss)
        torch.testing.assert_close(answer["output"], model(images))
        torch.testing.assert_close(answer["grads"], {"weight": weight, "bias": bias})


def test_loose_tensors_have_gradients_too() -> None:
    """A gradient reaches what is kept loosely, and is None for what it does not reach."""

    class Loose(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = [torch.ones(3, requires_grad=True)]
            self.unused = nn.Parameter(torch.ones(1))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * self.weight[0]

    grads = VERBS["gradients"](Loose(), torch.full((1, 3), 2.0))["grads"]
    assert grads["weight.0"].tolist() == [2.0, 2.0, 2.0]
    assert grads["unused"] is None


def test_a_cut_graph_is_said_and_not_raised() -> None:
    """A model whose output needs no gradient answers with its output, and None for the gradients."""
    model = nn.Linear(3, 4)
    answer = VERBS["gradients"](lambda_module(lambda x: model(x).detach()), torch.ones(2, 3))
    assert (answer["grads"], answer["output"].shape) == (None, (2, 4))


def lambda_module(function: Any) -> nn.Module:
    """A module around a function."""

    class Lambda(nn.Module):
        def forward(self, x: torch.Tensor) -> Any:
            return function(x)

    return Lambda()


def test_structure_names_bases_and_what_each_owns() -> None:
    """Each submodule is told with torch's classes among its bases, and only the tensors that it owns itself."""

    class MyNorm(nn.BatchNorm1d):
        pass

    parts = VERBS["structure"](nn.Sequential(nn.Linear(2, 3, bias=False), MyNorm(3)))
    assert [part["path"] for part in parts] == ["", "0", "1"]
    assert [part["parameters"] for part in parts] == [[], ["weight"], ["weight", "bias"]]
    assert parts[2]["buffers"] == ["running_mean", "running_var", "num_batches_tracked"]
    assert parts[2]["bases"][0] == "torch.nn.modules.batchnorm.BatchNorm1d"
    assert "torch.nn.modules.module.Module" in parts[0]["bases"]


def test_a_trace_tells_functions_and_layers() -> None:
    """A trace tells, in order, the torch functions that student code called, with shapes, and the layers called."""

    class MyLinear(nn.Linear):
        pass

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = MyLinear(3, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return F.relu(self.fc(x)).sum(1)

    answer = VERBS["trace"](Net(), torch.ones(4, 3))
    assert answer["operations"] == [
        ["torch.nn.functional.linear", [4, 2]],
        ["torch.nn.functional.relu", [4, 2]],
        ["torch.Tensor.sum", [4]],
    ]
    assert "torch.nn.modules.linear.Linear" in answer["layers"]
    assert answer["output"].shape == (4,)


def test_a_trace_leaves_nothing_behind() -> None:
    """After a trace, one that raised too, no layer reports any more."""
    hooks = torch.nn.modules.module._global_forward_pre_hooks
    assert VERBS["trace"](nn.Linear(3, 2), torch.ones(1, 3))["layers"] == ["torch.nn.modules.linear.Linear"]
    with pytest.raises(RuntimeError):
        VERBS["trace"](nn.Linear(3, 2), torch.ones(1, 5))
    assert not hooks
    assert not calm_now()


def test_a_trace_is_bounded() -> None:
    """A model that calls torch without end is told by its first thousand calls."""
    answer = VERBS["trace"](lambda_module(lambda x: [x + 1 for _ in range(1500)][-1]), torch.ones(1))
    assert len(answer["operations"]) == 1000


def test_a_watched_model_tells_how_it_was_called() -> None:
    """Each call is noted with mode, gradients, device and count; the answers are the model's own."""
    inner = nn.Linear(3, 2)
    model = VERBS["watch"](inner)
    model.train()
    output = model(torch.ones(4, 3))
    model.eval()
    with torch.no_grad():
        model(torch.ones(2, 3))
    assert torch.equal(output, inner(torch.ones(4, 3)))
    assert VERBS["seen"](model) == [
        {"training": True, "grad": True, "device": "cpu", "count": 4},
        {"training": False, "grad": False, "device": "cpu", "count": 2},
    ]


def test_modes_tell_each_submodule() -> None:
    """The mode of the model and of each part is told, so that one left behind shows."""
    model = nn.Sequential(nn.Dropout(), nn.Linear(1, 1))
    model[1].eval()
    assert VERBS["modes"](model) == [True, True, False]


def test_the_input_comes_back_as_the_model_left_it() -> None:
    """A model that writes to its input is found out; one that does not leaves it equal."""
    images = torch.ones(2, 2)
    assert torch.equal(VERBS["input_after"](nn.ReLU(), images), torch.ones(2, 2))
    assert VERBS["input_after"](lambda x: x.mul_(3), images).tolist() == [[3.0, 3.0], [3.0, 3.0]]


def test_the_optimizer_holds_the_models_parameters() -> None:
    """`sgd` steps every parameter of the model, at the rate and momentum that were asked for."""
    model = nn.Linear(2, 1)
    optimizer = VERBS["sgd"](model, 0.1, 0.9)
    assert optimizer.param_groups[0]["params"] == list(model.parameters())
    assert (optimizer.param_groups[0]["lr"], optimizer.param_groups[0]["momentum"]) == (0.1, 0.9)
