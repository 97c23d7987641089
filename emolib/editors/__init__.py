"""Editors: what changes a person's emotion in a picture. One frozen dataclass a method, one contract."""

# The name of a method -> where its editor is; `pkgutil.resolve_name` opens it without loading the others.
METHODS = {
    "img2img": "emolib.editors.inversion:Img2Img",
    "ddim": "emolib.editors.inversion:DDIMInversion",
    "negative-prompt": "emolib.editors.inversion:NegativePromptInversion",
    "null-text": "emolib.editors.inversion:NullTextInversion",
    "edit-friendly": "emolib.editors.inversion:EditFriendlyInversion",
    "direct": "emolib.editors.inversion:DirectInversion",
    "exact": "emolib.editors.inversion:ExactInversion",
    "prompt-to-prompt": "emolib.editors.prompt_to_prompt:PromptToPrompt",
    "ledits++": "emolib.editors.ledits:LEditsPP",
    "asyrp": "emolib.editors.asyrp:Asyrp",
}

# The same for editors that are no Stable Diffusion, and are asked by their model: "instruct:flux2-klein".
OTHERS = {
    "instruct": "emolib.editors.instruct:Instruct",
    "hosted": "emolib.editors.hosted:Hosted",
}
