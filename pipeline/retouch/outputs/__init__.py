"""A run's output folder: results, images, lease, markers, event log, verification."""
