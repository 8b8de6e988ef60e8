"""Metrics of edited images and of image sets. They import torch and scikit-* only when they are loaded or run."""
