"""Run plans on a Ray cluster: edits with Ray Data, fine-tuning and evaluation as tasks, training with Ray Train."""
