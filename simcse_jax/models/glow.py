"""Glow on vectors: the normalising flow of BERT-flow (Kingma & Dhariwal 2018; Li et al. 2020).

Every layer is a bijection of R^D with two methods, and each of them returns a pair:

- ``forward(x)``: ``(z, log |det dz/dx|)``, from the data to the latent space;
- ``inverse(z)``: ``(x, log |det dx/dz|)``, its exact inverse.

Arrays are ``[B, D]`` and log-determinants ``[B]``, one number per row, here and below. A layer is
initialised by ``layer.init(key, x, method="forward")``: activation normalisation takes its
parameters from the batch ``x`` it first sees, layer after layer, so that the batch leaves each of
them with mean 0 and variance 1. Parameters get the type of that batch (float64 where
``jax.enable_x64`` is on and the batch is float64).

What is learned lies in the collection ``params``; what is drawn or computed once and then kept
(permutations, the signs of an LU factorisation, the whitening matrix) lies in ``constants``.

The authors write a sentence vector as a 1 x 1 image with D channels, so their 1 x 1 convolutions
are matrix products and nothing is squeezed (`flow/glow_1x1.py`, `flow/glow_ops_1x1.py` of
bohanli/BERT-flow, after tensor2tensor's Glow).
"""

from __future__ import annotations

from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

Permutation = Literal["reverse", "random", "lu"]
Coupling = Literal["additive", "affine"]

# A flow is useful only as far as it can be undone: TF32 and bfloat16 passes are not enough.
_EXACT = jax.lax.Precision.HIGHEST


class Bijection(nn.Module):
    """An invertible map of R^D; subclasses define ``__call__(x, inverse)``."""

    def forward(self, x: Float[Array, "B D"]) -> tuple[Float[Array, "B D"], Float[Array, "B"]]:
        """Return ``(z, log |det dz/dx|)``."""
        return self(x)

    def inverse(self, z: Float[Array, "B D"]) -> tuple[Float[Array, "B D"], Float[Array, "B"]]:
        """Return ``(x, log |det dx/dz|)``."""
        return self(z, inverse=True)


def _rows(value: Float[Array, ""], x: Float[Array, "B D"]) -> Float[Array, "B"]:
    """Repeat a log-determinant that is the same for every row of ``x``: ``[] -> [B]``."""
    return jnp.broadcast_to(value.astype(x.dtype), x.shape[:1])


class ActNorm(Bijection):
    """Activation normalisation, ``z = (x + b) exp(f s)`` with ``f = logscale_factor``.

    ``log |det| = f sum(s)``. At initialisation ``b = -mean(x)`` and
    ``f s = -log(std(x) + 1e-6)`` over the batch (the variance is 1/B). The factor only rescales
    the gradient of ``s``: a step of the optimiser moves the log-scale ``f`` times as far.
    """

    logscale_factor: float = 3.0

    @nn.compact
    def __call__(
        self, x: Float[Array, "B D"], inverse: bool = False
    ) -> tuple[Float[Array, "B D"], Float[Array, "B"]]:
        """Normalise ``x``, or undo it."""

        def log_scale(_key: Key[Array, ""]) -> Float[Array, "D"]:
            # The biased variance about the mean just removed, as in the authors' code.
            std = jnp.sqrt(jnp.mean(jnp.square(x + bias), axis=0))
            still = std <= 1e-6 * (1 + jnp.abs(bias))
            return jnp.where(still, 0, -jnp.log(std + 1e-6) / self.logscale_factor)

        bias = self.param("bias", lambda _key: -jnp.mean(x, axis=0))  # [D]
        scale = self.param("log_scale", log_scale) * self.logscale_factor  # [D]
        logdet = _rows(jnp.sum(scale), x)
        if inverse:
            return x * jnp.exp(-scale) - bias, -logdet
        return (x + bias) * jnp.exp(scale), logdet


class Permute(Bijection):
    """A fixed permutation of the dimensions; ``log |det| = 0``.

    ``kind="reverse"`` turns the vector around (the authors' code), ``"random"`` draws a
    permutation when the layer is initialised (the paper) and keeps it among the constants.
    """

    kind: Literal["reverse", "random"] = "reverse"

    @nn.compact
    def __call__(
        self, x: Float[Array, "B D"], inverse: bool = False
    ) -> tuple[Float[Array, "B D"], Float[Array, "B"]]:
        """Permute ``x``, or undo it."""
        logdet = jnp.zeros(x.shape[:1], x.dtype)
        if self.kind == "reverse":
            return x[:, ::-1], logdet
        order = self.variable(
            "constants",
            "order",
            lambda: jax.random.permutation(self.make_rng("params"), x.shape[1]).astype(jnp.int32),
        ).value
        return x[:, jnp.argsort(order) if inverse else order], logdet


class InvertibleLinear(Bijection):
    """Glow's invertible 1 x 1 convolution, ``z = x W`` with ``W = P L (U + diag(±exp(s)))``.

    ``P`` and the signs are constants, ``L`` (unit lower triangular), ``U`` (strictly upper) and
    ``s`` are learned; they start at the factors of a random rotation. ``log |det| = sum(s)`` costs
    O(D), the inverse two triangular solves.
    """

    @nn.compact
    def __call__(
        self, x: Float[Array, "B D"], inverse: bool = False
    ) -> tuple[Float[Array, "B D"], Float[Array, "B"]]:
        """Multiply ``x`` by ``W``, or by its inverse."""
        dim = x.shape[1]
        # Linen asks the initialisers for their shapes even where the parameters exist.
        factors: tuple[Array, ...] = (jnp.zeros((dim, dim), x.dtype),) * 3
        if self.is_initializing():
            # The Q factor of a Gaussian matrix, its signs fixed: uniform among the rotations.
            gauss = jax.random.normal(self.make_rng("params"), (dim, dim), x.dtype)
            q, r = jnp.linalg.qr(gauss)
            factors = jax.scipy.linalg.lu(q * jnp.sign(jnp.diagonal(r)))
        order = self.variable("constants", "order", lambda: jnp.argmax(factors[0], axis=1)).value
        sign = self.variable("constants", "sign", lambda: jnp.sign(jnp.diagonal(factors[2]))).value
        lower = self.param("lower", lambda _key: jnp.tril(factors[1], -1))
        upper = self.param("upper", lambda _key: jnp.triu(factors[2], 1))
        log_scale = self.param("log_scale", lambda _key: jnp.log(jnp.abs(jnp.diagonal(factors[2]))))

        # P[i, order[i]] = 1, so x P is x with its dimensions scattered: (x P)[order[i]] = x[i].
        low = jnp.tril(lower, -1) + jnp.eye(dim, dtype=x.dtype)
        up = jnp.triu(upper, 1) + jnp.diag(sign * jnp.exp(log_scale))
        logdet = _rows(jnp.sum(log_scale), x)
        if inverse:
            # z = y L U is (L U)^T y^T = z^T: undo U^T, then L^T.
            y = jax.scipy.linalg.solve_triangular(up, x.T, trans="T", lower=False)
            y = jax.scipy.linalg.solve_triangular(low, y, trans="T", lower=True, unit_diagonal=True)
            return y.T[:, order], -logdet
        y = x[:, jnp.argsort(order)]
        return jnp.dot(jnp.dot(y, low, precision=_EXACT), up, precision=_EXACT), logdet


class CouplingNetwork(nn.Module):
    """The network inside a coupling: ``[B, D/2] -> [B, outputs]``, zero at initialisation.

    Two matrix products of ``width`` columns, each followed by activation normalisation and relu,
    then one that starts at zero with its own log-scale; 1 x 1 convolutions in the authors' code.
    """

    width: int
    outputs: int
    logscale_factor: float = 3.0

    @nn.compact
    def __call__(self, x: Float[Array, "B D"]) -> Float[Array, "B F"]:
        """Apply the network."""
        for i in range(2):
            x = nn.Dense(
                self.width,
                use_bias=False,
                kernel_init=nn.initializers.normal(0.05),
                param_dtype=x.dtype,
                precision=_EXACT,
                name=f"hidden_{i}",
            )(x)  # [B, width]
            x, _ = ActNorm(self.logscale_factor, name=f"actnorm_{i}")(x)
            x = nn.relu(x)
        x = nn.Dense(
            self.outputs,
            kernel_init=nn.initializers.zeros,
            param_dtype=x.dtype,
            precision=_EXACT,
            name="zeros",
        )(x)  # [B, outputs]
        scale = self.param("log_scale", nn.initializers.zeros, (self.outputs,), x.dtype)
        return x * jnp.exp(scale * self.logscale_factor)


class CouplingLayer(Bijection):
    """One half of the vector moves the other: ``z = [x1, g(x2; x1)]``.

    - ``additive``: ``z2 = x2 + t(x1)``, ``log |det| = 0``;
    - ``affine``: ``z2 = (x2 + t(x1)) s(x1)`` with ``s = sigmoid(network + 2)``,
      ``log |det| = sum(log s(x1))``.

    The network starts at zero, so an additive layer starts as the identity and an affine one as
    multiplication of ``x2`` by ``sigmoid(2)``. D must be even.
    """

    kind: Coupling = "additive"
    width: int = 32
    logscale_factor: float = 3.0

    @nn.compact
    def __call__(
        self, x: Float[Array, "B D"], inverse: bool = False
    ) -> tuple[Float[Array, "B D"], Float[Array, "B"]]:
        """Couple the halves of ``x``, or undo it."""
        _check_halves(x.shape[1], "a coupling layer")
        x1, x2 = jnp.split(x, 2, axis=1)  # [B, D/2] each
        half = x2.shape[1]
        outputs = half if self.kind == "additive" else 2 * half
        h = CouplingNetwork(self.width, outputs, self.logscale_factor, name="network")(x1)
        if self.kind == "additive":
            x2 = x2 - h if inverse else x2 + h
            return jnp.concatenate([x1, x2], axis=1), jnp.zeros(x.shape[:1], x.dtype)
        # Shifts and scales alternate in the network's output, as in the authors' code.
        shift, raw = h[:, 0::2], h[:, 1::2] + 2.0
        logdet = jnp.sum(jax.nn.log_sigmoid(raw), axis=1)  # [B]
        if inverse:
            # 1 / sigmoid(r) = 1 + exp(-r) keeps the digits that a division would lose.
            return jnp.concatenate([x1, x2 * (1 + jnp.exp(-raw)) - shift], axis=1), -logdet
        return jnp.concatenate([x1, (x2 + shift) * jax.nn.sigmoid(raw)], axis=1), logdet


class FlowStep(Bijection):
    """One step of the flow: activation normalisation, permutation, coupling."""

    permutation: Permutation = "reverse"
    coupling: Coupling = "additive"
    width: int = 32
    logscale_factor: float = 3.0

    @nn.compact
    def __call__(
        self, x: Float[Array, "B D"], inverse: bool = False
    ) -> tuple[Float[Array, "B D"], Float[Array, "B"]]:
        """Apply the three layers, or undo them in the opposite order."""
        mix = (
            InvertibleLinear(name="linear")
            if self.permutation == "lu"
            else Permute(self.permutation, name="permute")
        )
        layers = [
            ActNorm(self.logscale_factor, name="actnorm"),
            mix,
            CouplingLayer(self.coupling, self.width, self.logscale_factor, name="coupling"),
        ]
        logdet = jnp.zeros(x.shape[:1], x.dtype)
        for layer in reversed(layers) if inverse else layers:
            x, change = layer(x, inverse)
            logdet = logdet + change
        return x, logdet


class Glow(Bijection):
    """The whole flow: ``levels`` blocks of ``depth`` steps, half of the vector leaving after each.

    After every level but the last the vector is split in two: the second half is finished
    (``eps``) and the first goes on. The latent vector is ``z = [eps_1, eps_2, ..., x_last]``, D
    numbers, each with a standard normal prior (the authors' split priors are not conditioned), so

        ``log p(x) = sum_d log N(z_d; 0, 1) + log |det dz/dx|``.

    D must be divisible by ``2 ** levels``: every level halves it and couples its halves.
    """

    levels: int = 3
    depth: int = 3
    width: int = 32
    coupling: Coupling = "additive"
    permutation: Permutation = "reverse"
    logscale_factor: float = 3.0

    @nn.compact
    def __call__(
        self, x: Float[Array, "B D"], inverse: bool = False
    ) -> tuple[Float[Array, "B D"], Float[Array, "B"]]:
        """Map ``x [B, D]`` to ``z [B, D]``, or back."""
        dim = x.shape[1]
        check_dim(dim, self.levels)
        steps = [
            [
                FlowStep(
                    self.permutation,
                    self.coupling,
                    self.width,
                    self.logscale_factor,
                    name=f"level_{level}_step_{step}",
                )
                for step in range(self.depth)
            ]
            for level in range(self.levels)
        ]
        logdet = jnp.zeros(x.shape[:1], x.dtype)
        if not inverse:
            finished = []
            for level in range(self.levels):
                for layer in steps[level]:
                    x, change = layer(x)
                    logdet = logdet + change
                if level < self.levels - 1:
                    x, eps = jnp.split(x, 2, axis=1)  # [B, D / 2^(level+1)] each
                    finished.append(eps)
            return jnp.concatenate([*finished, x], axis=1), logdet

        bounds = [dim - dim // 2**level for level in range(1, self.levels)]
        *finished, x = jnp.split(x, bounds, axis=1)
        for level in reversed(range(self.levels)):
            if level < self.levels - 1:
                x = jnp.concatenate([x, finished[level]], axis=1)
            for layer in reversed(steps[level]):
                x, change = layer(x, inverse=True)
                logdet = logdet + change
        return x, logdet

    def log_prob(self, x: Float[Array, "B D"]) -> Float[Array, "B"]:
        """Return ``log p(x)`` in nats, ``[B]``."""
        z, logdet = self(x)
        return standard_normal_log_prob(z) + logdet


def standard_normal_log_prob(z: Float[Array, "B D"]) -> Float[Array, "B"]:
    """Return ``log N(z; 0, I)`` in nats: ``[B, D] -> [B]``."""
    return -0.5 * (jnp.sum(jnp.square(z), axis=1) + z.shape[1] * jnp.log(2 * jnp.pi))


def check_dim(dim: int, levels: int) -> None:
    """Raise ValueError unless a flow of ``levels`` levels can take vectors of ``dim`` numbers."""
    if levels < 1:
        raise ValueError(f"a flow needs at least one level, got levels={levels}")
    if dim < 2**levels or dim % 2**levels:
        raise ValueError(
            f"embeddings of {dim} dimensions do not split into {levels} levels: the dimension must "
            f"be a multiple of 2**levels = {2**levels}; choose fewer levels"
        )


def _check_halves(dim: int, where: str) -> None:
    if dim < 2 or dim % 2:
        raise ValueError(f"{where} needs an even number of dimensions, got {dim}")
