"""Emotion labels, spaces and facial action units. Import the submodule you need; nothing is re-exported."""
