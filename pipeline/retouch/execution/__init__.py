"""Run jobs: one module per job kind (edit, finetune, train, evaluate), and what they share."""
