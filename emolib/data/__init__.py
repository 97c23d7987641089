"""The data sets: EmoFaces, FindingEmo, EmoSet-118K, any folder of pictures; each is read as a `Manifest`."""

DATA = """a folder of pictures (one subfolder an emotion) or a table that names them (metadata.csv, .jsonl,
.parquet), a manifest (from `emolib data import`), an EmoSet folder or zip, emofaces or emofaces:SPLIT (train,
val, test, concepts, scenes; by itself test), or findingemo:FOLDER with its pictures"""
"""What `emolib.data.open.open_dataset` takes, for the help of commands."""
