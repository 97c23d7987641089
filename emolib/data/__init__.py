"""The data sets: EmoFaces, FindingEmo, EmoSet-118K and any folder of pictures, all read into one
`Manifest`."""
