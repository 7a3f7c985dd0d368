"""Floating-point operations of a forward pass, and the device's rate of matrix products."""

import time

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from pycat.proxy.flops import proxy_products
from pycat.runtime.device import choose_dtype
from pycat.scoring.adapter import Adapter, ProxyAdapter

# Seconds of measured products, which follow one that is not measured; and their size.
_MEASURE_S = 0.2
_CPU_SIZE, _CUDA_SIZE = 2048, 8192


def model_flops(adapter: Adapter, src: NDArray[np.int32], tgt: NDArray[np.int32]) -> int:
    """Floating-point operations of scoring pairs under one checkpoint, without padding.

    Each multiply-add of the matrix products counts two: linear layers, attention and output layer.
    A proxy's are counted from its shape, causal attention as half a square. Other modules are
    counted from their weights, without attention: each weight matrix that is no embedding counts
    once a source token in a submodule named `encoder`, once a target token in a submodule named
    `decoder` (even for keys and values of the source), and elsewhere once a token of either side.
    The output layer counts once a target token.

    Args:
        adapter: the checkpoint.
        src, tgt: int32 (N,), tokens of each pair.
    """
    if isinstance(adapter, ProxyAdapter):
        return 2 * proxy_products(adapter.model.config, src.astype(float), tgt.astype(float))
    num_src, num_tgt = int(src.sum()), int(tgt.sum())
    products = adapter.head.weight.numel() * num_tgt
    for name, module in adapter.module.named_modules():
        weight = getattr(module, "weight", None)
        if (
            isinstance(module, (nn.Embedding, nn.EmbeddingBag))
            or not isinstance(weight, torch.Tensor)
            or weight.dim() != 2
            or weight.data_ptr() == adapter.head.weight.data_ptr()
        ):
            continue
        side = next((part for part in name.split(".") if part in ("encoder", "decoder")), None)
        products += weight.numel() * (
            {"encoder": num_src, "decoder": num_tgt}.get(side or "", num_src + num_tgt)
        )
    return 2 * products


def product_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Operations a second of a large square product: the best within 0.2 s, with torch's threads.

    For int8, of which torch has no such product, the rate of bfloat16, or of float32 on a device
    without products of bfloat16: torch would take minutes for one.
    """
    dtype = choose_dtype("auto", device) if dtype == torch.int8 else dtype
    size = _CPU_SIZE if device.type == "cpu" else _CUDA_SIZE
    square = torch.randn(size, size, device=device).to(dtype)
    best, begin = float("inf"), None
    while begin is None or time.perf_counter() - begin < _MEASURE_S:
        started = time.perf_counter()
        square @ square
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        if begin is None:  # the first product is not measured: it also loads libraries
            begin = time.perf_counter()
            continue
        best = min(best, time.perf_counter() - started)
    return 2 * size**3 / best
