"""DiffusionCLIP (Kim, Kwon, Ye 2022): image translation by fine-tuned networks; open ``editor.py`` first."""
