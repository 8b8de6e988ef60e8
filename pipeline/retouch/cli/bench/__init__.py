"""Timings, side by side in one run: the engine alone, the engine through Ray, and large manifests."""
