"""Editors, one folder each: ``editor.py`` (networks and uint8 batches), ``params.py``, ``sampler.py`` (tensors)."""
