"""From a trained generator to images: latents, truncation, standing statistics, grids."""
