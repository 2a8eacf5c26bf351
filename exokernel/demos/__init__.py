"""Demonstrations, one file each: a function `show(seed, picture, as_json)` that runs, prints a table and the sentence
that follows from its numbers, and draws a picture."""
