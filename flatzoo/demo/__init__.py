"""A local page that shows what a model sees of a video (needs `flatzoo[demo]`).

`answer.py` computes the answer, `page.py` shows it.
"""
