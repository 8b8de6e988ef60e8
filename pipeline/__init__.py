"""Retouch: edit image datasets at scale."""
