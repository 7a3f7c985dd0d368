"""Muon, the optimizer of the layers' matrices: an update by the orthogonalized momentum.

torch.optim.Muon takes one matrix at a time, and torch has had it since 2.9 alone. Here matrices of
like shapes, of all layers and of all stacked models, are orthogonalized in one batched product.
"""

import math
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

# Of the learning rate, which is that of Adam for everything else; docs/training.md has the figures.
RATE_FACTOR = 5.0

_MOMENTUM = 0.95
_ITERATIONS = 5
_COEFFICIENTS = 3.4445, -4.7750, 2.0315


class _Member(NamedTuple):
    parameter: Tensor  # (M, parts * out, in)
    parts: int


class Muon:
    """Updates matrices W of gradients G, with Nesterov momentum.

    A step is

        B <- 0.95 B + 0.05 G
        W <- W - 5 rate sqrt(max(1, out / in)) orthogonal(0.05 G + 0.95 B)

    where `orthogonal` is of (out, in), and roughly sets all singular values to 1.

    Source: Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/.

    Args:
        matrices: stacked parameters (M, out, in) by name, changed in place. A layer of keys and
            values, (M, 2 out, in), is two matrices.
        rate: the learning rate, a scalar, read at each step.
        dtype: of products.

    Attributes:
        state: of each parameter, `momentum_buffer`, of its shape.
    """

    def __init__(self, matrices: Mapping[str, Tensor], rate: Tensor, dtype: torch.dtype) -> None:
        self._rate, self._dtype = rate, dtype
        self.state = {
            parameter: {"momentum_buffer": torch.zeros_like(parameter, requires_grad=False)}
            for parameter in matrices.values()
        }
        # Matrices that become wide ones of the same shape when tall ones are transposed.
        self._groups: dict[tuple[int, int], list[_Member]] = {}
        for name, parameter in matrices.items():
            parts = 2 if name.endswith("key_value.weight") else 1
            sides = parameter.shape[1] // parts, parameter.shape[2]
            self._groups.setdefault((min(sides), max(sides)), []).append(_Member(parameter, parts))

    @torch.no_grad()
    def step(self) -> None:
        """Update all matrices by their gradients."""
        for members in self._groups.values():
            directions = [self._direction(*member) for member in members]
            wide = (x.mT if x.shape[1] > x.shape[2] else x for x in directions)
            made = orthogonal(torch.cat(list(wide)).to(self._dtype))
            split = torch.split(made, [len(x) for x in directions])
            for member, x, update in zip(members, directions, split, strict=True):
                is_tall = x.shape[1] > x.shape[2]
                scale = RATE_FACTOR * math.sqrt(max(1.0, x.shape[1] / x.shape[2]))
                step = (update.mT if is_tall else update).reshape(member.parameter.shape)
                member.parameter.sub_(step * (self._rate * scale))

    def _direction(self, parameter: Tensor, parts: int) -> Tensor:
        """Nesterov momentum (M parts, out, in) of a parameter, whose buffer goes on."""
        assert parameter.grad is not None
        buffer = self.state[parameter]["momentum_buffer"]
        buffer.lerp_(parameter.grad, 1 - _MOMENTUM)
        ahead = parameter.grad.lerp(buffer, _MOMENTUM)
        return ahead.view(-1, parameter.shape[1] // parts, parameter.shape[2])


def orthogonal(x: Tensor) -> Tensor:
    """Matrices (N, rows, columns) with singular values of about 0.7 to 1.2, by Newton-Schulz.

    Singular values that are far below the others stay below that; zero stays zero.
    """
    a, b, c = _COEFFICIENTS
    x = x / torch.linalg.vector_norm(x, dim=(1, 2), keepdim=True).clamp(min=1e-30)
    for _ in range(_ITERATIONS):
        squares = torch.bmm(x, x.mT)
        x = torch.baddbmm(x, torch.baddbmm(squares, squares, squares, beta=b, alpha=c), x, beta=a)
    return x


def hidden_matrices(parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The stacked parameters (M, ...) that are matrices of layers: no embeddings, no vectors."""
    return {
        name: parameter
        for name, parameter in parameters.items()
        if parameter.dim() == 3 and "embedding" not in name
    }
