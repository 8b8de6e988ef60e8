"""Any edit pipeline of diffusers over a dataset: text inpainting, instructions, exemplars, ControlNets."""
