"""What is plugged into a model for a while, by `with ...`; afterwards the model is as before."""
