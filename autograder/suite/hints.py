"""Layer 3: what PyTorch's own error messages usually mean in homework; the first hint that fits what student code raised is told."""

import re

__all__ = ["hint"]

_HINTS: tuple[tuple[str, str], ...] = (
    (
        r"mat1 and mat2 shapes cannot be multiplied|size mismatch, m1",
        "What reaches the linear layer has the wrong number of features per image: flatten with `x.flatten(1)`, which keeps the batch "
        "dimension (a batch size written into the code has the same effect), and check kernel sizes and pooling before it.",
    ),
    (
        r"expected input\[\d+, 1, \d+, \d+\] to have (\d+) channels, but got 1 channels",
        "The second convolution was fed the input image instead of the first layer's output.",
    ),
    (
        r"to have \d+ channels, but got \d+ channels",
        "A convolution's input has another number of channels than its weight: is it fed the previous layer's output?",
    ),
    (
        r"Expected 3D .* or 4D .* input to conv2d",
        "The images were flattened before the convolution; a convolution needs (N, channels, height, width).",
    ),
    (
        r"max_pool2d.*missing .*kernel_size|kernel_size.*(missing|must be)|missing \d+ required positional argument.*kernel_size",
        "`F.max_pool2d` needs its kernel size: `F.max_pool2d(x, 2)`.",
    ),
    (
        r"before Module\.__init__\(\) call|has no attribute '_(parameters|modules|buffers)'",
        "`super().__init__()` is missing, or comes too late: it is the first line of an nn.Module's `__init__`.",
    ),
    (
        r"shape '\[.*\]' is invalid for input of size",
        "A `view` or `reshape` names a size that this batch does not have; use `x.flatten(1)` instead of a written-out batch size.",
    ),
    (
        r"view size is not compatible",
        "Use `reshape` or `flatten` instead of `view` after an operation that permutes dimensions.",
    ),
    (
        r"not compiled with CUDA|No CUDA GPUs|Found no NVIDIA driver",
        "The code names CUDA, and this machine has none: leave the device to the caller, with `.to(device)`.",
    ),
    (
        r"Expected all tensors to be on the same device",
        "A tensor stayed on the CPU: register it (`nn.Parameter`, `register_buffer`), or make it with `device=x.device`.",
    ),
    (r"can't convert cuda", "numpy cannot read a tensor on a GPU; stay in torch."),
    (
        r"can't allocate memory|bad_alloc|Cannot allocate memory",
        "The code needs more memory than a submission may use.",
    ),
    (
        r"modified by an inplace operation|leaf Variable that requires grad",
        "An in-place operation changed a tensor that the backward pass needs.",
    ),
    (r"empty parameter list", "The model has no parameters to train: keep each weight on `self` as an `nn.Parameter`."),
    (
        r"does not require grad",
        "The graph is cut: `.detach()`, `.data`, `torch.no_grad()`, or weights that are no `nn.Parameter`.",
    ),
    (r"not implemented|NotImplementedError", "This is not written yet."),
)


def hint(kind: str, message: str) -> str:
    """What an exception of this class with this message usually means; "" where nothing is known."""
    text = f"{kind}: {message}"
    return next((words for pattern, words in _HINTS if re.search(pattern, text, re.DOTALL)), "")
