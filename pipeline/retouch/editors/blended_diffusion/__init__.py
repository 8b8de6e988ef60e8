"""Blended Diffusion (Avrahami et al. 2022): editing of a masked region towards a text; open ``editor.py`` first."""
