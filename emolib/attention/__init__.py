"""Prompt-to-prompt: which pixels look at which word, and how a target prompt takes that over."""
