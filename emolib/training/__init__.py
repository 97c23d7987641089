"""Fine-tuning: one loop; methods differ in which parameters train and which prompts pictures go with."""
