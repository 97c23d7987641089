"""Look at pictures and say what is there: emotion, attributes, identity, faces. Judges never edit."""
