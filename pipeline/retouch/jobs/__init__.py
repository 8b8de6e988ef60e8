"""Job files: YAML to checked, frozen models. Open ``config.py`` first."""
