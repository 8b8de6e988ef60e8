"""Scores of edited images while they are in memory. Imports nothing itself: take what you need from its modules."""
