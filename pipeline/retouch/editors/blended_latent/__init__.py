"""Blended Latent Diffusion (Avrahami, Fried, Lischinski 2023): text in the masked region; open ``editor.py`` first."""
