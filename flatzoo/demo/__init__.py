"""A local page that shows what a model sees of a video (needs `flatzoo[demo]`).

`answer.py` computes the answer for a video, `follow.py` what happens when; `pictures.py` and `timeline.py` draw them as
HTML, `page.py` shows them, `server.py` serves the page.
"""
