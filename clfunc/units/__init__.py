"""What is known and done unit by unit: masks, resets, utility, plasticity."""
