"""Training of networks for editors: DiffusionCLIP's fine-tuning and Paint by Example's exemplar training."""
