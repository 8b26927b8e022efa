"""Style sheet and script of the page. The script runs in the browser and talks to no server."""

__all__ = ['CSS', 'HEAD']

CSS = """
.gradio-container { max-width: 1240px !important; margin: 0 auto !important; }
.flatzoo-picture { border: 1px solid var(--border-color-primary); border-radius: var(--block-radius);
    background: var(--block-background-fill); padding: 14px 16px 16px; }
.html-container:has(.flatzoo-picture) { padding: 0 !important; }
.flatzoo-video video { max-height: 300px; }
.flatzoo-picture h3 { margin: 0; font-size: 1rem; font-weight: 600; }
.flatzoo-picture p { margin: 2px 0 10px; color: var(--body-text-color-subdued); font-size: .85rem; }
.flatzoo-picture .wide { overflow-x: auto; width: 0; min-width: 100%; }
.flatzoo-picture img { display: block; max-width: 100%; max-height: 560px; margin: 0 auto; border-radius: 6px; }
.flatzoo-picture .wide img { min-width: 620px; }
.flatzoo-picture .empty { border: 1px dashed var(--border-color-primary); border-radius: 6px; padding: 24px 16px;
    text-align: center; color: var(--body-text-color-subdued); font-size: .85rem; }
.flatzoo-small, .flatzoo-small p { color: var(--body-text-color-subdued); font-size: .8rem !important; }
.flatzoo-top { display: grid !important; grid-template-columns: repeat(2, minmax(0, 1fr));
    grid-template-areas: 'video answer' 'when answer' 'when controls'; grid-template-rows: auto auto 1fr; }
.flatzoo-top > .flatzoo-given { grid-area: video; }
.flatzoo-top > .flatzoo-when { grid-area: when; }
.flatzoo-top > .flatzoo-answer { grid-area: answer; }
.flatzoo-top > .flatzoo-controls { grid-area: controls; }
@media (max-width: 720px) {
    .flatzoo-top { grid-template-columns: minmax(0, 1fr); grid-template-rows: none;
        grid-template-areas: 'video' 'when' 'answer' 'controls'; }
}
button[aria-label='Trim video to selection'] { display: none; }

.flatzoo-timeline { --c0: #2563eb; --c1: #d97706; --c2: #059669; --c3: #db2777; --c4: #7c3aed; --c5: #0891b2;
    --c6: #b91c1c; --c7: #65a30d; --rest: #6b7280; }
.dark .flatzoo-timeline { --c0: #60a5fa; --c1: #fbbf24; --c2: #34d399; --c3: #f472b6; --c4: #a78bfa; --c5: #22d3ee;
    --c6: #f87171; --c7: #a3e635; --rest: #9ca3af; }
.flatzoo-timeline .band { position: relative; margin-top: 4px; }
.flatzoo-timeline [data-length] { cursor: pointer; }
.flatzoo-timeline svg { display: block; width: 100%; height: 74px; background: var(--background-fill-secondary);
    border-radius: 6px 6px 0 0; }
.flatzoo-timeline polyline { fill: none; stroke-width: 1.6; vector-effect: non-scaling-stroke; }
.flatzoo-timeline .events { position: relative; height: 20px; margin-top: 2px;
    background: var(--background-fill-secondary); border-radius: 0 0 6px 6px; overflow: hidden; }
.flatzoo-timeline .events i { position: absolute; min-width: 2px; border-radius: 3px; }
.flatzoo-timeline .head { position: absolute; top: 0; bottom: 0; width: 2px; margin-left: -1px; display: none;
    background: var(--body-text-color); pointer-events: none; }
.flatzoo-timeline .times { display: flex; justify-content: space-between; margin-top: 2px; font-size: .75rem;
    color: var(--body-text-color-subdued); font-variant-numeric: tabular-nums; }
.flatzoo-timeline .names { display: flex; flex-wrap: wrap; gap: 2px 14px; margin: 8px 0 0; padding: 0;
    list-style: none; font-size: .8rem; color: var(--body-text-color); }
.flatzoo-timeline .names li { margin: 0; overflow-wrap: anywhere; }
.flatzoo-timeline .names i { display: inline-block; width: 10px; height: 10px; border-radius: 3px; margin-right: 6px; }
.flatzoo-timeline .list { max-height: 264px; overflow-y: auto; margin-top: 12px; }
.flatzoo-timeline table { width: 100%; border-collapse: collapse; border: 0 !important; font-size: .85rem;
    box-shadow: none !important; margin: 0 !important; color: var(--body-text-color); }
.flatzoo-timeline :is(thead, tbody, tr) { border: 0 !important; }
.flatzoo-timeline :is(th, td) { padding: 5px 10px 5px 0 !important; border: 0 !important; text-align: left;
    border-bottom: 1px solid var(--border-color-primary) !important; font-variant-numeric: tabular-nums;
    white-space: nowrap; }
.flatzoo-timeline :is(th, td):nth-child(3) { width: 99%; white-space: normal; overflow-wrap: anywhere; }
.flatzoo-timeline :is(th, td):last-child { text-align: right; padding-right: 4px !important; }
.flatzoo-timeline thead th { position: sticky; top: 0; background: var(--block-background-fill); font-weight: 600; }
.flatzoo-timeline :is(td button, .files a) { all: unset; cursor: pointer; color: var(--c0);
    text-decoration: underline; }
.flatzoo-timeline :is(td button, .files a):focus-visible { outline: 2px solid var(--c0); }
.flatzoo-timeline .none { margin-top: 12px; }
.flatzoo-timeline .files { margin: 12px 0 0; display: flex; flex-wrap: wrap; gap: 6px 16px; }
"""

# A click on the timeline or on a time jumps there; a line follows the player. Players that lack a codec are silent:
# whether flatzoo can read the video is for it to say.
HEAD = """<script>
addEventListener('error', event => { if (event.target.tagName === 'VIDEO') event.stopImmediatePropagation() }, true)
{
    const player = () => document.querySelector('.flatzoo-video video')
    const jump = seconds => { if (player()) { player().currentTime = seconds; show() } }
    const show = () => {
        for (const band of document.querySelectorAll('[data-length]')) {
            const share = player() ? player().currentTime / band.dataset.length : -1, head = band.querySelector('.head')
            head.style.display = share >= 0 && share <= 1 ? 'block' : 'none'
            head.style.left = `${100 * share}%`
        }
    }
    addEventListener('click', event => {
        const time = event.target.closest?.('[data-time]'), band = event.target.closest?.('[data-length]')
        if (time) jump(Number(time.dataset.time))
        else if (band) {
            const box = band.getBoundingClientRect()
            jump(Math.max(0, (event.clientX - box.left) / box.width) * band.dataset.length)
        }
    })
    for (const name of ['timeupdate', 'seeked']) addEventListener(name, show, true)
}
</script>"""
