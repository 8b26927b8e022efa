"""Procedural labelled actions: the data set that needs no download, and the painter of its scenes."""
from .actions import (
    ACTIONS as ACTIONS,
    ActionClips as ActionClips,
    ActionFrames as ActionFrames,
    render_action as render_action,
    reversed_label as reversed_label,
    scene_labels as scene_labels,
)
from .files import (
    KINDS as KINDS,
    write_action as write_action,
    write_action_folder as write_action_folder,
    write_action_splits as write_action_splits,
)
from .splice import (
    NOTHING as NOTHING,
    Segment as Segment,
    render_nothing as render_nothing,
    spliced_frames as spliced_frames,
    write_spliced as write_spliced,
)
from .verbs import (
    VERBS as VERBS,
    VerbClips as VerbClips,
    mirrored_verb as mirrored_verb,
    paint_verb as paint_verb,
    render_verb as render_verb,
    reversed_verb as reversed_verb,
)
