"""DiffusionCLIP's training: a source network becomes one that draws a text's domain. Knows no cluster."""
