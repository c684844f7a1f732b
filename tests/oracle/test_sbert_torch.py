"""sentence-transformers' SoftmaxLoss, CosineSimilarityLoss and TripletLoss against ours."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from simcse_jax.losses.cosine_regression import cosine_regression
from simcse_jax.losses.nli_softmax import nli_softmax, pair_features
from simcse_jax.losses.triplet import triplet_loss

pytestmark = pytest.mark.oracle

B, D = 24, 10


def embeddings(count):
    rng = np.random.default_rng(0)
    base = rng.normal(size=(B, D))
    return [(base + 0.8 * rng.normal(size=base.shape)).astype(np.float32) for _ in range(count)]


@pytest.fixture
def identity():
    """A model whose "features" are the embeddings: the losses under test get them unchanged."""
    import torch

    class Identity(torch.nn.Module):
        device = torch.device("cpu")

        def forward(self, features):
            return {"sentence_embedding": features["embedding"]}

    return Identity()


def compare(torch_loss, labels, ours, arrays, parameters=()):
    """Values, and gradients with respect to the embeddings and the loss' own parameters."""
    import torch

    tensors = [torch.tensor(x, requires_grad=True) for x in arrays]
    features = [{"embedding": t} for t in tensors]
    expected = torch_loss(features, None if labels is None else torch.tensor(labels))
    expected.backward()
    inputs = [jnp.asarray(x) for x in (*arrays, *(p.detach().numpy() for p in parameters))]
    loss, gradients = jax.value_and_grad(ours, range(len(inputs)))(*inputs)
    np.testing.assert_allclose(loss, expected.item(), rtol=1e-5)
    for gradient, tensor in zip(gradients, [*tensors, *parameters], strict=True):
        np.testing.assert_allclose(gradient, tensor.grad.numpy(), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("concatenation", "rep", "difference", "multiplication"),
    [
        ("uv", True, False, False),
        ("diff", False, True, False),
        ("mul", False, False, True),
        ("diff-mul", False, True, True),
        ("uv-mul", True, False, True),
        ("uv-diff", True, True, False),
        ("uv-diff-mul", True, True, True),
    ],
)
@pytest.mark.parametrize("use_bias", [True, False])
def test_softmax_loss(identity, concatenation, rep, difference, multiplication, use_bias):
    torch = pytest.importorskip("torch")
    losses = pytest.importorskip("sentence_transformers.losses")
    loss = losses.SoftmaxLoss(
        identity,
        D,
        3,
        concatenation_sent_rep=rep,
        concatenation_sent_difference=difference,
        concatenation_sent_multiplication=multiplication,
    )
    if not use_bias:  # theirs always has one; without it they are Su et al.'s
        loss.classifier.bias = None
    labels = np.random.default_rng(1).integers(0, 3, B)

    def ours(u, v, weight, bias=None):
        logits = pair_features(u, v, concatenation) @ weight.T
        return nli_softmax(logits if bias is None else logits + bias, labels).loss

    compare(loss, labels, ours, embeddings(2), list(loss.classifier.parameters()))
    assert isinstance(loss.classifier, torch.nn.Linear)


@pytest.mark.parametrize("score", ["cosine", "shifted"])
def test_cosine_similarity_loss(identity, score):
    torch = pytest.importorskip("torch")
    losses = pytest.importorskip("sentence_transformers.losses")
    options = {}
    if score == "shifted":

        class Shifted(torch.nn.Module):
            def forward(self, cosine):
                return (cosine + 1) / 2

        options["cos_score_transformation"] = Shifted()
    loss = losses.CosineSimilarityLoss(identity, **options)
    similarities = np.random.default_rng(1).uniform(0, 1, B).astype(np.float32)

    def ours(u, v):
        return cosine_regression(u, v, similarities, score=score)

    compare(loss, similarities, ours, embeddings(2))


@pytest.mark.parametrize("margin", [1.0, 5.0])
@pytest.mark.parametrize("distance", ["euclidean", "cosine", "manhattan"])
def test_triplet_loss(identity, distance, margin):
    losses = pytest.importorskip("sentence_transformers.losses")
    metric = getattr(losses.TripletDistanceMetric, distance.upper())
    loss = losses.TripletLoss(identity, distance_metric=metric, triplet_margin=margin)

    def ours(a, p, n):
        return triplet_loss(a, p, n, margin=margin, distance=distance).loss

    compare(loss, None, ours, embeddings(3))
