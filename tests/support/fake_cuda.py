"""Counts what code would do on a GPU: it runs on fake CUDA tensors, with shapes but no values."""

from __future__ import annotations

import traceback
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves, tree_map

from lens_cache.features.transfer import Arrival, Transfer

# Operators that change how a storage is read, or allocate one.
NO_KERNEL = {
    *("view", "_unsafe_view", "expand", "permute", "transpose", "t", "select", "slice", "alias"),
    *("unsqueeze", "squeeze", "detach", "unbind", "split", "split_with_sizes", "as_strided"),
    *("unfold", "lift_fresh", "_reshape_alias", "diagonal", "is_pinned", "device"),
    *("empty", "empty_strided", "empty_like", "new_empty", "new_empty_strided"),
}
# Operators whose result, or its size, is a value of the device.
WAITS = {"_local_scalar_dense", "nonzero", "masked_select", "is_nonzero", "equal"}
BLOCK = 512  # bytes; PyTorch allocates multiples of it


class GpuCount(TorchDispatchMode):
    """Counts what happens on a fake GPU while it is entered.

    Operators without a CUDA tensor run as always. Values that come from the device are ones.

    Attributes:
        kernels: Calls of operators that run a kernel.
        waits: Places in the code at which the host waits for the device.
        attention: Calls of fused attention, by kind and shapes of queries and keys.
        peak: Most bytes of storages at a time, of those made since the start.
    """

    def __init__(self, mode: FakeTensorMode) -> None:
        super().__init__()
        self._mode = mode
        self.start(())

    def start(self, weights: Iterable[Tensor]) -> None:
        """Set all counts to zero; storages of the weights are not counted."""
        self.kernels: Counter[str] = Counter()
        self.waits: Counter[str] = Counter()
        self.attention: Counter[tuple[object, ...]] = Counter()
        self.peak = 0
        self._storages: dict[int, tuple[StorageWeakRef, int]] = {}
        self._known = {value.untyped_storage()._cdata for value in weights}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        given = tree_leaves((args, kwargs))
        read = [value for value in given if isinstance(value, Tensor)]
        devices = {value.device.type for value in read}
        devices |= {value.type for value in given if isinstance(value, torch.device)}
        if "cuda" not in devices:
            with _disable_current_modes():  # with values, on the CPU
                return func(*args, **kwargs)
        if func.namespace == "aten" and func._can_decompose():  # in inference mode nobody else does
            with self:
                return func.decompose(*args, **kwargs)
        name = func.overloadpacket.__name__.rstrip("_")
        uploads = any(value.device.type == "cpu" and value.ndim for value in read)
        downloads = name == "_to_copy" and kwargs.get("device") == torch.device("cpu")
        if name in WAITS or uploads or downloads:
            self.waits[f"{name} at {_place()}"] += 1
        if name not in NO_KERNEL:
            self.kernels[name] += 1
        if name == "_local_scalar_dense":
            return True if read[0].dtype == torch.bool else 1
        if downloads:
            return _ones(read[0], kwargs.get("dtype"))
        args, kwargs = tree_map(self._without_values, (args, kwargs))
        result = func(*args, **kwargs)
        for value in tree_leaves(result):
            if isinstance(value, Tensor):
                self._keep(value)
        return result

    def _without_values(self, value: Any) -> Any:
        if isinstance(value, Tensor) and not isinstance(value, FakeTensor):
            return self._mode.from_tensor(value)
        return value

    def _keep(self, value: Tensor) -> None:
        storage = value.untyped_storage()
        key = storage._cdata
        if key in self._known or key in self._storages:
            return
        # Storages that are gone; a storage can have the address of one of them.
        self._storages = {
            key: (storage, size)
            for key, (storage, size) in self._storages.items()
            if not storage.expired()
        }
        self._storages[key] = StorageWeakRef(storage), -(-storage.nbytes() // BLOCK) * BLOCK
        self.peak = max(self.peak, sum(size for _, size in self._storages.values()))


class _Attention(torch.autograd.Function):
    """Fused attention, which keeps no scores for its backward pass."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        output = query.new_empty(*query.shape[:-1], value.shape[-1])
        sums = query.new_empty(query.shape[:-1], dtype=torch.float32)
        ctx.save_for_backward(query, key, value, output, sums)
        return output

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, ...]:
        query, key, value, _, _ = ctx.saved_tensors
        return torch.empty_like(query), torch.empty_like(key), torch.empty_like(value)


@contextmanager
def fake_gpu() -> Iterator[GpuCount]:
    """Let tensors be made on a GPU that is not there; yields the count, to be entered."""
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    count = GpuCount(mode)

    def attention(
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        **_: object,
    ) -> Tensor:
        kind = "masked" if attn_mask is not None else "causal" if is_causal else "full"
        count.attention[kind, tuple(query.shape), tuple(key.shape)] += 1
        count.kernels["attention"] += 1
        if torch.is_autocast_enabled("cuda"):
            query, key, value = (part.to(torch.bfloat16) for part in (query, key, value))
        result: Tensor = _Attention.apply(query, key, value)  # type: ignore[no-untyped-call]
        return result

    # Copies of ``Transfer`` are asynchronous on a GPU.
    def upload(self: Transfer, values: Tensor) -> Tensor:
        return torch.empty(values.shape, dtype=values.dtype, device=self.device)

    def download(self: Transfer, values: Mapping[str, Tensor]) -> Arrival:
        return Arrival({name: _ones(value) for name, value in values.items()}, None)

    with ExitStack() as patches:
        for owner, name, replacement in (
            (F, "scaled_dot_product_attention", attention),
            (Transfer, "__init__", _without_streams),
            (Transfer, "upload", upload),
            (Transfer, "download", download),
            (nn.Module, "to", _stay),  # fake weights cannot be moved
            (torch.cuda, "is_bf16_supported", lambda *_, **__: True),
            (torch.cuda.amp.common, "amp_definitely_not_available", lambda: False),
        ):
            patches.enter_context(mock.patch.object(owner, name, replacement))
        patches.enter_context(mode)
        yield count


def _without_streams(self: Transfer, device: torch.device | str) -> None:
    self.device = torch.device(device)


def _stay(self: nn.Module, *_: object, **__: object) -> nn.Module:
    return self


def _ones(value: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    with _disable_current_modes():
        return torch.ones(value.shape, dtype=dtype or value.dtype)


def _place() -> str:
    """Return the innermost line of the code on the stack."""
    for frame in reversed(traceback.extract_stack()):
        for package in ("lens_cache", "pipelines"):
            if f"/{package}/" in frame.filename:
                return f"{package}/{frame.filename.rpartition(f'/{package}/')[2]}:{frame.lineno}"
    return "unknown"
