"""The mathematics of diffusion: schedules, steps, noise, guidance. Knows no network, no image file and no editor."""
