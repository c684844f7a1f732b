"""The loss of the authors' code and of sentence-transformers, in torch, against ours."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from simcse_jax.losses.info_nce import info_nce_loss

pytestmark = pytest.mark.oracle


def embeddings(count, batch=24, dim=10):
    rng = np.random.default_rng(0)
    base = rng.normal(size=(batch, dim))
    return [(base + 0.8 * rng.normal(size=base.shape)).astype(np.float32) for _ in range(count)]


def authors_loss(z1, z2, z3=None, temperature=0.05, hard_negative_weight=0.0):
    """`cl_forward` of the authors' models.py, from the pooled outputs on."""
    import torch

    cos = torch.nn.CosineSimilarity(dim=-1)
    scores = cos(z1.unsqueeze(1), z2.unsqueeze(0)) / temperature
    if z3 is not None:
        negatives = cos(z1.unsqueeze(1), z3.unsqueeze(0)) / temperature
        scores = torch.cat([scores, negatives], 1)
        count = len(z1)
        weights = [
            [0.0] * count + [0.0] * i + [hard_negative_weight] + [0.0] * (count - i - 1)
            for i in range(count)
        ]
        scores = scores + torch.tensor(weights)
    return torch.nn.CrossEntropyLoss()(scores, torch.arange(len(z1)))


def compare(torch_loss, arrays, **options):
    import torch

    tensors = [torch.tensor(x, requires_grad=True) for x in arrays]
    expected = torch_loss(*tensors)
    expected.backward()
    for implementation in ("dense", "blockwise"):
        loss, gradients = jax.value_and_grad(
            lambda *x, i=implementation: info_nce_loss(
                *x, implementation=i, block_size=7, **options
            ),
            range(len(arrays)),
        )(*(jnp.asarray(x) for x in arrays))
        np.testing.assert_allclose(loss, expected.item(), rtol=1e-5)
        for gradient, tensor in zip(gradients, tensors, strict=True):
            np.testing.assert_allclose(gradient, tensor.grad.numpy(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("temperature", [0.05, 0.01, 1.0])
def test_unsupervised(temperature):
    def loss(*tensors):
        return authors_loss(*tensors, temperature=temperature)

    compare(loss, embeddings(2), temperature=temperature)


@pytest.mark.parametrize("weight", [0.0, 0.6931472, -0.6931472])
def test_supervised(weight):
    def loss(*tensors):
        return authors_loss(*tensors, hard_negative_weight=weight)

    compare(loss, embeddings(3), hard_negative_weight=weight)


@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize("symmetric", [False, True])
def test_sentence_transformers(count, symmetric):
    losses = pytest.importorskip("sentence_transformers.losses")
    directions = ("query_to_doc", "doc_to_query") if symmetric else ("query_to_doc",)
    # The loss asks its model for nothing once the embeddings are there.
    loss = losses.MultipleNegativesRankingLoss(
        model=None, scale=20.0, directions=directions, partition_mode="per_direction"
    )
    compare(
        lambda *tensors: loss.compute_loss_from_embeddings(list(tensors), None),
        embeddings(count),
        symmetric=symmetric,
    )
