"""The editors, one file each. Know tensors and networks; know neither files, Ray nor the job they run in."""
