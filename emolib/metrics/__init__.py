"""Numbers about edits. Functions of tensors and arrays; the caller says which pictures are compared."""
