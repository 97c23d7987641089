"""The playground: edit faces in the notebook, as fast as sliders move, and as a page that needs no kernel."""
