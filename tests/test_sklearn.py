"""The transforms inside scikit-learn: cloned, piped, searched, inverted."""

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.decomposition import PCA
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline

from simcse_jax.sklearn import TransformEstimator
from simcse_jax.transforms import FlowConfig, Whitening


@pytest.fixture
def x():
    random = np.random.default_rng(0)
    return (random.normal(size=(60, 6)) @ random.normal(size=(6, 6)) + 3).astype(np.float32)


def test_a_whitening_is_scikit_learn_s_own(x):
    estimator = TransformEstimator("whitening", k=4)
    found = estimator.fit_transform(x)
    np.testing.assert_array_equal(found, Whitening.fit(x, k=4)(x))
    pca = PCA(4, whiten=True).fit(x)
    np.testing.assert_allclose(np.abs(found), np.abs(pca.transform(x)), atol=1e-4)
    back = pca.inverse_transform(pca.transform(x))
    np.testing.assert_allclose(estimator.inverse_transform(found), back, atol=1e-3)


def test_parameters_and_clones(x):
    estimator = TransformEstimator("whitening", k=4).fit(x)
    assert estimator.get_params() == {"kind": "whitening", "k": 4}
    copied = clone(estimator).set_params(k=2)
    with pytest.raises(NotFittedError):
        copied.transform(x)
    assert copied.fit(x).transform(x).shape == (60, 2)
    assert estimator.transform(x).shape == (60, 4)
    assert repr(estimator) == "TransformEstimator(k=4)"  # without what is the default


def test_in_a_pipeline_and_a_search(x):
    labels = (x[:, 0] > 3).astype(int)
    pipeline = make_pipeline(TransformEstimator("whitening", k=6), LogisticRegression())
    search = GridSearchCV(pipeline, {"transformestimator__k": [1, 6]}, cv=3).fit(x, labels)
    assert search.best_params_ == {"transformestimator__k": 6}
    assert search.score(x, labels) > 0.9


def test_a_flow_and_its_inverse(x):
    config = FlowConfig(levels=1, depth=1, width=4)
    estimator = TransformEstimator("flow", config=config, epochs=1).fit(x)
    latents = estimator.transform(x)
    np.testing.assert_allclose(estimator.inverse_transform(latents), x, atol=1e-3)


def test_what_cannot_be(x, unchecked):
    with pytest.raises(ValueError, match="kind is 'pca'; it must be one of whitening, flow"):
        TransformEstimator("pca").fit(x)
    normalised = TransformEstimator("whitening", k=4, normalize=True).fit(x)
    with pytest.raises(ValueError, match="has no inverse; fit it with normalize=False"):
        normalised.inverse_transform(normalised.transform(x))


def test_a_direction_that_was_removed_stays_removed(x):
    estimator = TransformEstimator("all_but_the_top").fit(x)
    found = estimator.transform(x)
    again = estimator.transform(estimator.inverse_transform(found))
    np.testing.assert_allclose(again, found, atol=1e-4 * np.abs(found).max())
