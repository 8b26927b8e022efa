"""The page: its parts, and how they react to what a visitor does.

A video gets one answer with its pictures, and then a timeline that grows while the windows of the video are answered. A
camera gets a timeline of its last minute. Nothing is fetched from other hosts; a header makes the browser enforce this.
"""
import html
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from flatzoo.console.text import printable
from flatzoo.data.decode import VideoError
from flatzoo.models.base import VideoModel

from .answer import LAYOUTS, ORDERS, Limits, answer_video, check_video
from .follow import Cameras, follow_video
from .pictures import picture_html
from .timeline import clock, empty_timeline
from .uploads import KEPT_MINUTES, Turns, Uploads

__all__ = ['build_page']

ASSETS = Path(__file__).parents[1] / 'data' / 'assets'
EXAMPLES = {'a rendered scene': 'is_picked_up.mp4', 'a real one': 'carphone.mp4'}
INTRODUCTION = """
# flatzoo
**An image model names the action in a video.** The frames are laid out as one image; the image backbone does the rest.
"""
NO_VIDEO = 'Drop a video, use the camera or choose an example.'
NO_FRAME = 'Allow the camera, and press the button below it.'
NO_PICTURE = 'Pictures are drawn of videos, not of the camera.'
SHORT = 'This video is no longer than one window: the answer is for all of it.'
CAMERA_EVERY = 0.1  # seconds from one frame of the camera to the next
CAMERAS = 4  # that are watched at the same time; others wait
IS_DARK = "() => document.body.classList.contains('dark')"


def build_page(load: Callable[..., VideoModel], models: Sequence[str], limits: Limits, uploads: Uploads) -> Any:
    """Builds the page without serving it.

    Args:
        load: Takes the name of a model and a layout or None, and returns the model, ready to answer. It raises
            ValueError with a message for the visitor.
        models: Names to choose from. The first one is selected.
        limits: Largest accepted video.
        uploads: The record of uploads.

    Returns:
        `gradio.Blocks`.
    """
    import gradio as gr

    turns, cameras = Turns(), Cameras()

    def chosen(model_name: str, layout: str) -> VideoModel:
        model = load(model_name)
        return model if LAYOUTS[layout] is None else load(model_name, LAYOUTS[layout](model.num_frames))

    def look(
            video: str | None, model_name: str, layout: str, order: str, dark: bool, is_live: bool, request: gr.Request,
    ) -> tuple[Any, ...]:
        """One answer for the whole video; the last output is what `follow` takes."""
        session = request.session_hash
        uploads.show(session, video)
        cameras.close(session)
        nothing = None, *picture_html(None, why=NO_PICTURE if is_live else NO_VIDEO), None
        if video is None or is_live:
            turns.want(session, None)
            return nothing
        try:
            if not os.path.exists(video):
                raise VideoError(f'This video is no longer kept ({KEPT_MINUTES} minutes at most). Give it again.')
            check_video(video, limits)
            answer = answer_video(chosen(model_name, layout), video, order)
        except ValueError as error:
            turns.want(session, None)
            if isinstance(error, VideoError):  # and not of the model or the layout
                uploads.delete(video)
            gr.Warning(html.escape(str(error)), duration=None)
            return nothing
        turns.want(session, (video, model_name, layout))
        asked = f'Top 5 for all of {clock(answer.seconds)}, from {answer.frames} frames'
        return gr.Label(answer.probabilities, label=asked), *picture_html(answer, dark), video

    def follow(
            video: str | None, model_name: str, layout: str, is_live: bool, request: gr.Request) -> Iterator[Any]:
        session, work = request.session_hash, (video, model_name, layout)
        if video is None:
            yield empty_timeline(NO_FRAME if is_live else NO_VIDEO)
        elif turns.take(session, work):  # else it is there: only the order of the frames has changed
            shown = empty_timeline(SHORT)
            try:
                for shown in follow_video(chosen(model_name, layout), video, lambda: turns.wants(session, work)):
                    yield shown
            except (OSError, ValueError) as error:
                gr.Warning(html.escape(str(error)), duration=None)
            if turns.wants(session, work):
                yield shown

    def watch(
            frame: Any, model_name: str, layout: str, is_live: bool, request: gr.Request) -> tuple[Any, Any]:
        if frame is None or not is_live:
            return gr.skip(), gr.skip()
        try:
            seen = cameras.push(request.session_hash, frame, chosen(model_name, layout), (model_name, layout))
        except ValueError as error:
            raise gr.Error(html.escape(str(error))) from error
        if seen is None:
            return gr.skip(), gr.skip()
        record, timeline = seen
        top = {printable(item.label): item.probability for item in record.top}
        return gr.Label(top, label=f'Top 5 of the last {record.end - record.start:.1f} seconds'), timeline

    def leave(request: gr.Request) -> None:
        uploads.show(request.session_hash, None)
        turns.want(request.session_hash, None)
        cameras.close(request.session_hash)

    empty = picture_html(None, why=NO_VIDEO)
    with gr.Blocks(title='flatzoo', analytics_enabled=False, delete_cache=(60, 60 * KEPT_MINUTES)) as page:
        gr.Markdown(INTRODUCTION)
        accepted, is_live, dark = gr.State(), gr.State(False), gr.Checkbox(visible=False)
        with gr.Row(elem_classes='flatzoo-top'):  # on a phone the answer comes between the video and the controls
            with gr.Column(min_width=0, elem_classes='flatzoo-given'):
                with gr.Tab('Video') as files:
                    video = gr.Video(
                        label='Video', sources=['upload', 'webcam'], elem_classes='flatzoo-video',
                        include_audio=True)  # else gradio would run FFmpeg's program, which need not be there
                    gr.Examples(
                        [[str(ASSETS / name)] for name in EXAMPLES.values()], [video], label='Or look at',
                        example_labels=list(EXAMPLES), api_visibility='private')
                with gr.Tab('Live') as live:
                    camera = gr.Image(
                        label='Camera', sources=['webcam'], streaming=True, elem_classes='flatzoo-live',
                        webcam_options=gr.WebcamOptions(  # a mirror would turn left into right
                            mirror=False, constraints={'video': {'width': {'ideal': 320}, 'height': {'ideal': 240}}}))
            with gr.Column(min_width=0, elem_classes='flatzoo-when'):
                timeline = gr.HTML(empty_timeline(NO_VIDEO))
            with gr.Column(min_width=0, elem_classes='flatzoo-answer'):
                label = gr.Label(label='Top 5', num_top_classes=5)
                animation = gr.HTML(empty[2])
            with gr.Column(min_width=0, elem_classes='flatzoo-controls'):
                with gr.Group():
                    model_name = gr.Dropdown(
                        list(models), value=models[0], label='Model',
                        info='It knows the classes of its training: of any other video its answer is a guess.')
                    layout = gr.Dropdown(
                        list(LAYOUTS), value=next(iter(LAYOUTS)), label='Layout',
                        info='Any but that of training shows how much the model relies on it.')
                    order = gr.Radio(list(ORDERS), value=next(iter(ORDERS)), label='Frames')
                gr.Markdown(
                    f'Up to {limits.megabytes} MB and {limits.seconds} seconds. Your video is deleted when you remove '
                    f'it or leave this page, after {KEPT_MINUTES} minutes at the latest. Of the camera no frame is '
                    'kept.', elem_classes='flatzoo-small')
        with gr.Row():
            with gr.Column(min_width=320):
                super_image = gr.HTML(empty[0])
            with gr.Column(min_width=320):
                maps = gr.HTML(empty[1])
        importance = gr.HTML(empty[3])

        page.load(None, None, [dark], js=IS_DARK)
        files.select(lambda: False, None, [is_live], api_visibility='private')
        live.select(lambda: True, None, [is_live], api_visibility='private')
        looked = gr.on(
            [video.change, model_name.change, layout.change, order.change, is_live.change], look,
            [video, model_name, layout, order, dark, is_live],
            [label, super_image, maps, animation, importance, accepted],
            show_progress_on=[label], trigger_mode='always_last', concurrency_limit=1, api_visibility='private')
        looked.then(
            follow, [accepted, model_name, layout, is_live], [timeline], show_progress='hidden', concurrency_limit=2,
            api_visibility='private')
        camera.stream(
            watch, [camera, model_name, layout, is_live], [label, timeline], stream_every=CAMERA_EVERY,
            time_limit=limits.seconds, show_progress='hidden', concurrency_limit=CAMERAS, api_visibility='private')
        page.unload(leave)
    return page.queue(max_size=16)
