"""Paint by Example (Yang et al. 2022): an exemplar's object in the masked region; open ``editor.py`` first."""
