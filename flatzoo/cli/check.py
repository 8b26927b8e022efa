"""`flatzoo data check`: opens all clips of a data set, describes them, and finds what is wrong."""
import collections
import hashlib
import itertools
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flatzoo.data.lists import Clip, VideoList
    from flatzoo.data.survey import ClipFacts

__all__ = ['DataReport', 'check_videos', 'report_text']

SHOWN = 20  # findings of a kind that the text names; --json names all


@dataclass
class DataReport:
    """What a data set is like and what is wrong with it. A finding is a line, or a list of the names of equal clips.

    Attributes:
        missing: Files that are listed and not there.
        unreadable: Files that cannot be read, with the reason.
        short: Clips with fewer frames than a model takes, with their number of frames.
        duplicates: Names of clips of the same frames, in one split or in several.
        across_splits: Those of them that are in several splits: a model would be tested on what it was trained on.
        groups: Groups, such as people, that are in several splits, and clips without a group.
        classes: What does not match between the classes of the splits, or of the model.
        facts: What the clips are like, see `describe`. It is no finding.
    """

    missing: list[str] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)
    short: list[str] = field(default_factory=list)
    duplicates: list[list[str]] = field(default_factory=list)
    across_splits: list[list[str]] = field(default_factory=list)
    groups: list[str] = field(default_factory=list)
    classes: list[str] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def problems(self) -> dict[str, list]:
        """The findings by their names."""
        return {name: found for name, found in vars(self).items() if name != 'facts'}

    def __bool__(self) -> bool:
        return any(self.problems.values())


def check_videos(
        lists: Iterable['VideoList'],
        num_frames: int = 8,
        workers: int = 1,
        names: Iterable[str] | None = None,
        progress: Callable[[Iterable, int], Iterable] = lambda items, total: items,
) -> DataReport:
    """Opens every clip and reports what is wrong.

    Each clip is decoded as an evaluation of one clip would do it. Clips are equal if they have equally many frames and
    the decoded ones are the same pixels, so that a copy under another name or in another container is found.

    Args:
        lists: The splits of a data set.
        num_frames: Frames of a clip.
        workers: Files that are opened at the same time.
        names: Names of the classes of a model, to be compared with those that the clips have.
        progress: Called with the results, as they come, and their number, for a progress bar.
    """
    from flatzoo.data.groups import group_findings
    from flatzoo.data.lists import DataError, class_findings

    lists = list(lists)
    report = DataReport(missing=[path for videos in lists for path in videos.missing])
    entries = [(clip, videos) for videos in lists for clip in videos.clips]
    facts: list[ClipFacts] = []
    same: dict[bytes, list[tuple[str, str]]] = collections.defaultdict(list)
    with ThreadPoolExecutor(workers) as pool:
        results = _in_parallel(pool, lambda entry: _open(*entry, num_frames), entries, 16 * workers)
        for (clip, videos), (seen, digest, reason) in zip(entries, progress(results, len(entries)), strict=True):
            if seen is None:
                report.unreadable.append(reason if clip.name in reason else f'{clip.name}: {reason}')
                continue
            facts.append(seen)
            same[digest].append((clip.name, videos.split))
            if seen.length < num_frames:
                report.short.append(f'{clip.name}: {seen.length} frames')
    for clips in same.values():
        if len(clips) > 1:
            report.duplicates.append([f'{name} ({split})' for name, split in clips])
            if len({split for _, split in clips}) > 1:
                report.across_splits.append(report.duplicates[-1])
    report.groups = group_findings(lists)
    report.classes = class_findings(lists)
    if names is not None:
        for videos in lists:
            try:
                videos.with_classes(tuple(names))
            except DataError as error:
                report.classes.append(f'{videos.split}: {error}')
    report.facts = describe(lists, facts)
    return report


def describe(lists: Iterable['VideoList'], facts: list['ClipFacts']) -> dict[str, Any]:
    """What the clips of a data set are like.

    Args:
        lists: The splits.
        facts: What the readable clips are like.

    Returns:
        `clips_of_class` (by split: fewest, most, and the class that has most), `lengths` (fewest, middle and most
        frames), `sizes` (number of clips by `'WIDTHxHEIGHT'`, most frequent first), `aspects` (least, middle and
        greatest width : height), `centre_crop_loss` (middle and greatest share of the longer side that a square crop
        loses, 0...1) and `groups` (number of groups by split; empty without groups).
    """
    from flatzoo.data.groups import groups_of
    from flatzoo.data.survey import centre_crop_loss, median

    lists = list(lists)
    balance = {}
    for videos in lists:
        counts = collections.Counter(label for clip in videos.clips for label in clip.all_labels)
        label, most = next(iter(counts.most_common(1)), (0, 0))  # clips may show none of the classes
        balance[videos.split] = {
            'fewest': min(counts[other] for other in range(len(videos.classes))), 'most': most,
            'class_with_most': videos.classes[label], 'share_of_most': most / len(videos)}
    groups = {group: splits for group, splits in groups_of(lists).items() if group}
    of_split = {videos.split: sum(videos.split in splits for splits in groups.values()) for videos in lists}
    described = {
        'clips_of_class': balance, 'lengths': {}, 'sizes': {}, 'aspects': {}, 'centre_crop_loss': {},
        'groups': of_split if groups else {}}
    if facts:
        lengths, aspects = [one.length for one in facts], [one.aspect for one in facts]
        losses = [centre_crop_loss(one.height, one.width) for one in facts]
        sizes = collections.Counter(f'{one.width}x{one.height}' for one in facts)
        described['lengths'] = {'least': min(lengths), 'middle': median(lengths), 'most': max(lengths)}
        described['sizes'] = dict(sizes.most_common())
        described['aspects'] = {'least': min(aspects), 'middle': median(aspects), 'most': max(aspects)}
        described['centre_crop_loss'] = {'middle': median(losses), 'most': max(losses)}
    return described


def report_text(lists: list['VideoList'], report: DataReport, num_frames: int) -> str:
    """The report of `check_videos` for people."""
    counts = ', '.join(f'{videos.split} {len(videos)} clips' for videos in lists)
    lines = [f'{lists[0].name}: {counts}, {len(lists[0].classes)} classes', *_facts_text(report.facts)]
    lines += [f'note: {note}' for note in dict.fromkeys(videos.note for videos in lists) if note]
    titles = {
        'missing': 'missing',
        'unreadable': 'cannot be read',
        'short': f'fewer than {num_frames} frames',
        'across_splits': 'the same clip in several splits',
        'duplicates': 'the same clip more than once',
        'groups': 'groups',
        'classes': 'classes',
    }
    for name, title in titles.items():
        found = getattr(report, name)
        if name == 'duplicates':
            found = [one for one in found if one not in report.across_splits]
        if found:
            lines += ['', f'{title} ({len(found)}):']
            lines += [f'  {" = ".join(one) if isinstance(one, list) else one}' for one in found[:SHOWN]]
            if len(found) > SHOWN:
                lines.append(f'  and {len(found) - SHOWN} more; --json names all')
    return '\n'.join(lines if report else [*lines, 'nothing is wrong'])


def _facts_text(facts: dict[str, Any]) -> list[str]:
    from flatzoo.data.lists import some

    balance = facts['clips_of_class']
    lines = ['clips of a class: ' + ', '.join(
        f'{split} {one["fewest"]} to {one["most"]}' for split, one in balance.items()) + '; always to answer the '
        'largest class would be right in ' + ', '.join(
            f'{100 * one["share_of_most"]:.1f} % of {split}' for split, one in balance.items())]
    if facts['lengths']:
        lengths, aspects, losses = facts['lengths'], facts['aspects'], facts['centre_crop_loss']
        lines.append(
            f'lengths: {lengths["least"]} to {lengths["most"]} frames, half of the clips up to {lengths["middle"]}')
        lines.append('sizes: ' + some((f'{size} ({count})' for size, count in facts['sizes'].items()), 4))
        middle, most = (f'{100 * losses[name]:.0f} %' for name in ('middle', 'most'))
        lines.append(
            f'width : height: {aspects["least"]:.2f} to {aspects["most"]:.2f}; a square centre crop loses '
            + (f'{middle} of the longer side of the middle clip, {most} at most (see the option --fit)'
               if losses['most'] > 0.01 else 'nothing'))
    if facts['groups']:
        lines.append('groups: ' + ', '.join(f'{count} in {split}' for split, count in facts['groups'].items()))
    return lines


def _open(clip: 'Clip', videos: 'VideoList', num_frames: int) -> tuple['ClipFacts | None', bytes, str]:
    """What a clip is like (None if it cannot be read), a digest of its frames, and why it cannot be read."""
    from flatzoo.data.clips import clip_span, open_clip
    from flatzoo.data.sampling import uniform_indices
    from flatzoo.data.survey import ClipFacts

    try:
        with open_clip(clip, videos.depth) as reader:
            first, end = clip_span(clip, reader)
            digest = hashlib.blake2b(f'{end - first}'.encode())
            for index in uniform_indices(end - first, num_frames)[0].unique():  # one by one: few large frames in memory
                frame = reader.get_frames(index[None] + first)
                digest.update(f'{list(frame.shape)}'.encode())
                digest.update(frame.contiguous().numpy().data)
        return ClipFacts(end - first, *frame.shape[-2:]), digest.digest(), ''
    except Exception as error:  # noqa: BLE001 - whatever a file does to a decoder, the other files are checked
        return None, b'', ' '.join(str(error).splitlines()) or type(error).__name__


def _in_parallel(pool: ThreadPoolExecutor, function: Callable, items: Iterable, ahead: int) -> Iterator:
    """`map` with a bounded number of items under way."""
    waiting = collections.deque()
    items = iter(items)
    for item in itertools.islice(items, ahead):
        waiting.append(pool.submit(function, item))
    while waiting:
        result = waiting.popleft().result()
        for item in itertools.islice(items, 1):
            waiting.append(pool.submit(function, item))
        yield result
