"""Trains the embedded world on EmoFaces: judges, MiniCLIP, and MiniSD's autoencoder and UNet.

Order: `judges guide|heldout`, `probe`, `miniclip text`, `vae`, `unet`, `miniclip picture`, `vae --decoder`,
then `report` and `cards`, each run as `PYTHONPATH=data/build python -m train.NAME` from the repository's
root. `--renders data/build/work/portraits`, where `people.portraits` wrote, gives the masks with which
pictures are varied as photographs are (`appearance`). Every run can be killed at any time and goes on exactly
where its last checkpoint left off when the same command is given again.
"""
