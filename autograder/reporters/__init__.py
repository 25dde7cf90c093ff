"""Layer 5: Report -> the forms that people and platforms read. No grading here; each reporter sees layer 0 alone.

`gradescope` writes results.json, `terminal` prints to a console. Import the one you need: each brings a library.
"""
