"""The `video_preprocessor_config.json` of a checkpoint: what transformers' `AutoVideoProcessor` looks for.

It repeats the `video` block of `config.json` in transformers' words, so that a saved model is complete for its video
pipeline. Written without transformers; `FlatzooVideoProcessor` of `flatzoo.hub.transformers` reads it.
"""
from typing import Any

__all__ = ['PREPROCESSOR_FILE', 'video_preprocessor_config']

PREPROCESSOR_FILE = 'video_preprocessor_config.json'


def video_preprocessor_config(video: dict[str, Any]) -> dict[str, Any]:
    """What stands in `video_preprocessor_config.json`.

    Args:
        video: The `video` block of `config.json`, of which `num_frames`, `img_size`, `mean`, `std` and `protocol` are
            used.
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
