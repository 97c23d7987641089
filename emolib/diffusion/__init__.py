"""Load a Stable Diffusion and sample with it: models, schedules, one step, one loop, inversions."""
