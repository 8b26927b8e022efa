"""The clips whose features are nearest to those of a clip: exact search by the cosine of the angle."""
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .features import FeatureRow, Features

__all__ = ['Neighbour', 'nearest']


class Neighbour(NamedTuple):
    """A clip that is near to another one.

    Attributes:
        row: What is known of the clip.
        similarity: Cosine of the angle between both features, -1...1.
    """
    row: FeatureRow
    similarity: float


def nearest(features: Features, queries: Tensor, count: int = 5) -> list[list[Neighbour]]:
    """Finds the nearest clips by exact search, with faiss where it is installed.

    Args:
        features: Where to look. Features of frames are averaged.
        queries: `[Q, D]`, features of the same model.
        count: Clips for each query, at most all.

    Returns:
        A list for each query, the nearest clip first.

    Raises:
        ValueError: The features are tokens, or have another width.
    """
    values, queries = features.pooled(), queries.float()
    if queries.ndim != 2 or queries.shape[1] != values.shape[1]:
        raise ValueError(
            f'queries of shape {list(queries.shape)} do not fit features of shape {list(values.shape)}: they are of '
            'another model. Embed them with the same one.')
    values, queries = F.normalize(values), F.normalize(queries)
    count = min(count, len(values))
    try:
        import faiss
    except ImportError:
        scores, places = (queries @ values.T).topk(count, dim=1)
    else:
        index = faiss.IndexFlatIP(values.shape[1])  # exact
        index.add(values.numpy())
        scores, places = map(torch.from_numpy, index.search(queries.numpy(), count))
    return [
        [Neighbour(features.rows[place], score) for place, score in zip(row_places, row_scores, strict=True)]
        for row_places, row_scores in zip(places.tolist(), scores.tolist(), strict=True)]
