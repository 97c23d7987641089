"""Change a model for a while, by `with ...`: attention, h-space, learned tokens. It is as before after."""
