"""Plots that several lessons share. Import the submodule you need; nothing is re-exported."""
