"""The `video_preprocessor_config.json` of a checkpoint, which transformers' `AutoVideoProcessor` reads.

It repeats the `video` block of `config.json` under transformers' names, so that a saved model is complete for its video
pipeline. Writing it does not need transformers. `FlatzooVideoProcessor` of `flatzoo.hub.transformers` uses it.
"""
from typing import Any

__all__ = ['PREPROCESSOR_FILE', 'video_preprocessor_config']

PREPROCESSOR_FILE = 'video_preprocessor_config.json'


def video_preprocessor_config(video: dict[str, Any]) -> dict[str, Any]:
    """The content of `video_preprocessor_config.json`.

    Args:
        video: The `video` block of `config.json`. Used are `num_frames`, `img_size`, `mean`, `std` and `protocol`.
    """
    height, width = video['img_size']
    return {
        'video_processor_type': 'FlatzooVideoProcessor',
        'num_frames': video['num_frames'],
        'size': {'height': height, 'width': width},
        'image_mean': list(video['mean']),
        'image_std': list(video['std']),
        'protocol': dict(video['protocol']),
    }
