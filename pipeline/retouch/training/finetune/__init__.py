"""DiffusionCLIP's fine-tuning: a copy of the source network learns to draw a text's domain."""
