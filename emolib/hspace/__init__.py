"""h-space, the output of a UNet's middle block: directions in it change what a picture shows."""
