"""Evaluate finished image sets: shards, metric states, aggregates."""
