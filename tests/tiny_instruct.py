"""Tiny pipelines of every class that `editors.instruct` knows, randomly initialised, as saved folders."""

import functools
import tempfile
from pathlib import Path

import diffusers
import torch
import transformers
from tiny_pipelines import SCHEDULE, text_config, tokenizer, unet, vae
from tokenizers.pre_tokenizers import ByteLevel

_folders = tempfile.TemporaryDirectory(prefix="tiny-instruct-")
CHAT = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>")
SPECIAL += ("<|image_pad|>", "<|video_pad|>")

LAYERS = {"num_layers": 1, "attention_head_dim": 16, "num_attention_heads": 2}


def qwen_tokenizer():
    """Qwen's tokenizer with one token a letter."""
    vocab = {token: i for i, token in enumerate([*sorted(ByteLevel.alphabet()), *SPECIAL])}
    words = transformers.Qwen2Tokenizer(vocab=vocab, merges=[], model_max_length=1000, chat_template=CHAT)
    words.add_special_tokens({"additional_special_tokens": list(SPECIAL)})
    return words


def qwen_vision(words):
    """Qwen2.5-VL, which reads the instruction and the picture."""
    ids = dict(zip(SPECIAL, words.convert_tokens_to_ids(list(SPECIAL)), strict=True))
    rope = {"mrope_section": [1, 1, 2], "rope_type": "default", "rope_theta": 1e6}
    text = {
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "vocab_size": len(words),
    }
    text |= {
        "hidden_size": 16,
        "intermediate_size": 16,
        "rope_parameters": rope,
        "max_position_embeddings": 1000,
    }
    text |= {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None}
    vision = {"depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2, "out_hidden_size": 16}
    config = transformers.Qwen2_5_VLConfig(
        text_config=text,
        vision_config=vision,
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
    )
    return transformers.Qwen2_5_VLForConditionalGeneration(config)


class Processor(transformers.Qwen2VLProcessor):
    """Qwen's processor for pictures alone: that of videos needs torchvision."""

    def check_argument_for_proper_class(self, argument_name, argument):
        return None


def processor(words):
    sizes = {"min_pixels": 28 * 28, "max_pixels": 56 * 56}
    return Processor(transformers.Qwen2VLImageProcessor(**sizes), words, chat_template=CHAT)


def flow():
    return diffusers.FlowMatchEulerDiscreteScheduler()


def shifted(latent_channels):
    """A VAE whose latents have a mean, as Flux's."""
    network = vae(latent_channels)
    network.register_to_config(shift_factor=0.1)
    return network


def pix2pix():
    words = tokenizer()
    return diffusers.StableDiffusionInstructPix2PixPipeline(
        vae=vae(),
        text_encoder=transformers.CLIPTextModel(text_config(words, 16)),
        tokenizer=words,
        unet=unet(cross_attention_dim=16, in_channels=8),
        scheduler=diffusers.DDIMScheduler(**SCHEDULE),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def pix2pix_xl():
    words = tokenizer()
    extra = {"addition_embed_type": "text_time", "addition_time_embed_dim": 8}
    extra["projection_class_embeddings_input_dim"] = 6 * 8 + 20
    return diffusers.StableDiffusionXLInstructPix2PixPipeline(
        vae=vae(),
        text_encoder=transformers.CLIPTextModel(text_config(words, 16)),
        text_encoder_2=transformers.CLIPTextModelWithProjection(text_config(words, 24, projection=20)),
        tokenizer=words,
        tokenizer_2=tokenizer(),
        unet=unet(cross_attention_dim=40, in_channels=8, **extra),
        scheduler=diffusers.EulerDiscreteScheduler(**SCHEDULE),
        add_watermarker=False,
    )


def kontext():
    words = tokenizer()
    letters = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0)]
    letters += [(chr(code), -3.0) for code in range(33, 127)]
    t5 = transformers.T5Config(vocab_size=300, d_model=32, d_kv=8, d_ff=32, num_layers=1, num_heads=2)
    return diffusers.FluxKontextPipeline(
        scheduler=flow(),
        vae=shifted(4),
        text_encoder=transformers.CLIPTextModel(text_config(words, 32)),
        tokenizer=words,
        text_encoder_2=transformers.T5EncoderModel(t5),
        tokenizer_2=transformers.T5Tokenizer(vocab=letters, model_max_length=512),
        transformer=diffusers.FluxTransformer2DModel(
            in_channels=16,
            **LAYERS,
            num_single_layers=1,
            joint_attention_dim=32,
            pooled_projection_dim=32,
            axes_dims_rope=(4, 4, 8),
            guidance_embeds=True,
        ),
    )


def klein():
    words = qwen_tokenizer()
    config = transformers.Qwen3Config(
        hidden_size=8,
        intermediate_size=8,
        num_hidden_layers=28,  # the pipeline reads the 9th, 18th and 27th
        num_attention_heads=1,
        num_key_value_heads=1,
        vocab_size=len(words),
        max_position_embeddings=512,
    )
    return diffusers.Flux2KleinPipeline(
        scheduler=flow(),
        vae=diffusers.AutoencoderKLFlux2(
            block_out_channels=(8, 16),
            down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2,
            layers_per_block=1,
            norm_num_groups=4,
            latent_channels=4,
        ),
        text_encoder=transformers.Qwen3ForCausalLM(config),
        tokenizer=words,
        transformer=diffusers.Flux2Transformer2DModel(
            in_channels=16,
            **LAYERS,
            num_single_layers=1,
            joint_attention_dim=24,
            axes_dims_rope=(4, 4, 4, 4),
            guidance_embeds=False,
        ),
    )


def qwen(kind):
    words, z = qwen_tokenizer(), 4
    return kind(
        scheduler=flow(),
        vae=diffusers.AutoencoderKLQwenImage(
            base_dim=8,
            z_dim=z,
            dim_mult=[1, 2],
            num_res_blocks=1,
            temperal_downsample=[False],
            latents_mean=[0.0] * z,
            latents_std=[1.0] * z,
        ),
        text_encoder=qwen_vision(words),
        tokenizer=words,
        processor=processor(words),
        transformer=diffusers.QwenImageTransformer2DModel(
            in_channels=16,
            out_channels=4,
            **LAYERS,
            joint_attention_dim=16,
            axes_dims_rope=(8, 4, 4),
        ),
    )


def longcat():
    words = qwen_tokenizer()
    return diffusers.LongCatImageEditPipeline(
        scheduler=flow(),
        vae=shifted(16),
        text_encoder=qwen_vision(words),
        tokenizer=words,
        text_processor=processor(words),
        transformer=diffusers.LongCatImageTransformer2DModel(
            in_channels=64,
            **LAYERS,
            num_single_layers=1,
            joint_attention_dim=16,
            pooled_projection_dim=16,
            axes_dims_rope=[4, 4, 8],
        ),
    )


PIPELINES = {
    "pix2pix": pix2pix,
    "pix2pix-xl": pix2pix_xl,
    "kontext": kontext,
    "klein": klein,
    "qwen": lambda: qwen(diffusers.QwenImageEditPipeline),
    "qwen-plus": lambda: qwen(diffusers.QwenImageEditPlusPipeline),
    "longcat": longcat,
}


@functools.cache
def folder(name):
    """Where the tiny pipeline of that name is saved."""
    path = Path(_folders.name) / name
    torch.manual_seed(0)
    PIPELINES[name]().save_pretrained(path)
    return path
