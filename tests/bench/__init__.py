"""Tests of the timings: that they are taken of real work, never how long it takes."""
