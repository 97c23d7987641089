"""`emolib evaluate`: editors run over a data set with a known answer, measured, and put into one table."""
