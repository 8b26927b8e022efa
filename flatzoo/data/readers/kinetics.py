"""Kinetics-400, -600 and -700 (Kay et al., arXiv 1705.06950; Carreira et al., 1808.01340, 1907.06987).

Known: the lists are `train.csv`, `val.csv` or `validate.csv`, and `test.csv`. They have the columns label, youtube_id,
time_start, time_end and split; early lists of Kinetics-400 also have is_cc. The test lists of some releases have no
labels. The usual downloaders name a video `YOUTUBEID_SSSSSS_EEEEEE.mp4`, where start and end are seconds with six
digits. They make a folder per split, a folder per split and label, or one folder for all. The sorted names number the
labels.

Inferred: lists may lie in a folder `annotations`, also under names such as `kinetics_400_train.csv` and
`k400_train.csv`. Videos may have any suffix and lie at any depth. Many videos are no longer on YouTube; `missing=skip`
leaves them out.
"""
from pathlib import Path

from ..files import read_table, to_int, videos_below
from ..lists import SPLIT_NAMES, Clip, NotThere, VideoList, generic_list

SPLITS = ('train', 'val', 'test')
COLUMNS = ('youtube_id', 'time_start', 'time_end')


def matches(root: Path) -> bool:
    """Whether there is a list with the columns of Kinetics."""
    for path in _lists(root).values():
        with path.open(encoding='utf-8-sig', errors='replace') as file:
            head = file.readline()
            if all(column in head for column in COLUMNS):
                return True
    return False


def read(root: Path, split: str) -> VideoList:
    """The clips of a list. Their files are found by name, and are already cut: each file as a whole is one clip."""
    lists = _lists(root)
    if split not in lists:
        raise NotThere(
            f'{root}: has no list of the split {split}, such as {SPLIT_NAMES[split][0]}.csv, here or in annotations/. '
            'Get it from the publisher of Kinetics.')
    rows, labels = {}, set()
    for own, path in lists.items():
        columns = COLUMNS if own == 'test' != split else ('label', *COLUMNS)
        rows[own] = list(read_table(path, columns))
        labels |= {row['label'].strip() for _, row in rows[own] if row.get('label')}
    classes = sorted(labels)
    label_of = {name: label for label, name in enumerate(classes)}

    found: dict[str, str] = {}
    for path in videos_below(root):
        found.setdefault(Path(path).stem, path)
        if split in Path(path).relative_to(root).parts:  # one video may be in two splits
            found[Path(path).stem] = path
    clips = []
    for number, row in rows[split]:
        start = to_int(row['time_start'], lists[split], number, 'time_start')
        end = to_int(row['time_end'], lists[split], number, 'time_end')
        name = f'{row["youtube_id"]}_{start:06d}_{end:06d}'
        clips.append(Clip(found.get(name, str(root / split / f'{name}.mp4')), label_of[row['label'].strip()], id=name))
    return generic_list('kinetics', split, clips, classes)


def _lists(root: Path) -> dict[str, Path]:
    lists = {}
    for own, names in SPLIT_NAMES.items():
        for folder in (root, root / 'annotations'):
            for path in sorted(folder.glob('*.csv')):
                if path.stem in names or path.stem.rpartition('_')[2] in names:
                    lists.setdefault(own, path)
    return lists
