"""A local page that shows what a model sees of a video (needs `flatzoo[demo]`): `answer.py` looks, `page.py` shows."""
