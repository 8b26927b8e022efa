"""A file becomes an answer: which action a video shows, for one file or for very many."""
