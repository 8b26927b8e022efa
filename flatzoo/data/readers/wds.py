"""WebDataset shards: tar files whose members are grouped into samples by their names.

`flatzoo data pack` writes `SPLIT-000000.tar`, ... and `SPLIT.index.json`. The index names the classes, and says for
each clip in which shard and where it lies. With an index the root may also be a URL (`https://`, `s3://`, `gs://`,
`hf://`, ...). Only the clips are read from it. See `flatzoo.data.shards`.

Shards from other software must be on disk; they are indexed when they are opened. A sample is a video with a `.cls`
(number or name), or with a `.json` that has the key label. The names of numbered classes stand in `classes.txt` or
`labels.txt`. The split is in the name of the file or of its folder (`train-000000.tar`, `train/000000.tar`).
"""
from pathlib import Path

from ..files import first_file, read_lines
from ..lists import NotThere, VideoList, generic_list

SPLITS = ('train', 'val', 'test', 'all')


def matches(root: Path) -> bool:
    """Whether there are shards."""
    return root.is_dir() and first_file(root, '*.tar', '*/*.tar') is not None


def read(root: Path | str, split: str) -> VideoList:
    """The clips in the shards of a split."""
    from .. import shards

    if videos := shards.read_index(root, split):
        return videos
    if isinstance(root, str):
        raise NotThere(
            f'{root}: has no {split}.index.json. Shards that are not on disk need the index that flatzoo data pack '
            'writes.')
    files = shards.find_shards(root, split)
    if not files:
        raise NotThere(f'{root}: has no shards such as {split}-000000.tar or {split}/000000.tar.')
    path = first_file(root, 'classes.txt', 'labels.txt')
    names = None if path is None else tuple(line for _, line in read_lines(path))
    clips, classes = shards.index_shards(files, names)
    return generic_list('wds', split, clips, classes)
