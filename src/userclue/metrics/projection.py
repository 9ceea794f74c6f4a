"""A flat map of vectors: their two first principal components."""

import numpy as np
from sklearn.decomposition import PCA


def project(vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Vectors [B, D] → (coordinates float64 [B, 2], share of variance each axis explains [2]); zeros where there are not two axes."""
    n = min(2, *vectors.shape)
    pca = PCA(n_components=n, svd_solver="full").fit(vectors.astype(np.float64))
    coordinates = np.zeros((len(vectors), 2))
    coordinates[:, :n] = pca.transform(vectors.astype(np.float64))
    explained = np.zeros(2)
    explained[:n] = np.nan_to_num(pca.explained_variance_ratio_)
    return coordinates, explained
