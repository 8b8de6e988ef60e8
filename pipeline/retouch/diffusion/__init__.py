"""The mathematics of diffusion: noise schedules, sampling steps, seeded noise, guidance and losses."""
