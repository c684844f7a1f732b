"""The transforms as estimators of scikit-learn, for its pipelines and searches."""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Float

from simcse_jax import transforms
from simcse_jax.checks import check_choice
from simcse_jax.extras import needs
from simcse_jax.transforms import Affine, FittedKind, Flow, Transform

with needs("transfer"):
    from sklearn.base import BaseEstimator, TransformerMixin
    from sklearn.utils.validation import check_is_fitted


class TransformEstimator(TransformerMixin, BaseEstimator):
    """Fit a transform to embeddings as scikit-learn's own estimators are fitted.

    Example:
        >>> pipeline = make_pipeline(TransformEstimator("whitening", k=64), LogisticRegression())

    Attributes:
        kind: "whitening", "flow", "standardization" or "all_but_the_top".
        options: those of the kind's own ``fit``, such as ``k`` or ``seed``.
        transform_: the fitted :class:`simcse_jax.Transform`, which may be saved, or given to
            ``encoder.with_transform``.
    """

    def __init__(self, kind: FittedKind = "whitening", **options: Any):
        self.kind = kind
        self.options = options

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Return the kind and the options by name."""
        return {"kind": self.kind, **self.options}

    def set_params(self, **params: Any) -> TransformEstimator:
        """Change the kind or options; the next ``fit`` uses them."""
        self.kind = params.pop("kind", self.kind)
        self.options = {**self.options, **params}
        return self

    def fit(self, X: Any, y: Any = None) -> TransformEstimator:
        """Fit to embeddings ``[n, D]``; labels are not looked at.

        Raises:
            ValueError: there is no such kind, or as in the kind's own ``fit``.
        """
        check_choice("kind", self.kind, transforms.FITS)
        self.transform_: Transform = transforms.fit(self.kind, X, **self.options)
        return self

    def transform(self, X: Any) -> Float[np.ndarray, "n K"]:
        """Transform embeddings ``[n, D]`` to float32 ``[n, K]``."""
        check_is_fitted(self, "transform_")
        return self.transform_(X)

    def inverse_transform(self, X: Any) -> Float[np.ndarray, "n D"]:
        """Return the embeddings that a transform takes to these; of several, the shortest.

        Raises:
            ValueError: the transform has no inverse, since it divides by the L2 norm.
        """
        check_is_fitted(self, "transform_")
        fitted = self.transform_
        if isinstance(fitted, Flow):
            return fitted.inverse(X)[0]
        if not isinstance(fitted, Affine) or fitted.normalize:
            raise ValueError(f"this {fitted.kind} has no inverse; fit it with normalize=False")
        # Without a bias: nothing that is fitted has one.
        # What is below the rounding of float32 is a direction that the transform has removed.
        rounding = max(fitted.matrix.shape) * np.finfo(np.float32).eps
        inverse = np.linalg.pinv(np.asarray(fitted.matrix, np.float64), rcond=rounding)
        return (np.asarray(X, np.float64) @ inverse + fitted.mean).astype(np.float32)
