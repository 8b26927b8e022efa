"""Kinetics-400, -600 and -700 (Kay et al., arXiv 1705.06950; Carreira et al., 1808.01340, 1907.06987).

Known: lists `train.csv`, `val.csv` or `validate.csv`, `test.csv` with the columns label, youtube_id, time_start,
time_end and split (the lists of K400 once had is_cc, too); the test lists of some releases have no labels. The usual
downloaders name a video `YOUTUBEID_SSSSSS_EEEEEE.mp4`, start and end in seconds of six digits, in a folder per split,
or per split and label, or all in one. Labels count through the sorted names.

Inferred: lists may lie in a folder `annotations`, also as `kinetics_400_train.csv` and `k400_train.csv`; any suffix of
a video is accepted, and any depth of folders. Many videos have left YouTube since: go on without them by
`missing=skip`.
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
    """The clips of a list, found by the names of their files. The files are cut already; they are clips as a whole."""
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
