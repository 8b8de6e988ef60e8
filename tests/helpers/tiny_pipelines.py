"""Tiny diffusers pipelines with random weights, built offline: no hub, no files, seconds on one CPU core.

Tokenizers are made from the byte alphabet (CLIP, Qwen) or single characters (T5), so that prompts differ in their
number of tokens. ``build`` returns a pipeline, ``save`` writes its folder, ``call`` runs diffusers' own loop.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import torch
import transformers
from PIL import Image
from tokenizers import pre_tokenizers

SIZE = 64  # pixels a side of the test images
BYTES = sorted(pre_tokenizers.ByteLevel.alphabet())
CHAT = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'text' %}{{ part['text'] }}{% elif part['type'] == 'image' %}"
    "<|vision_start|><|image_pad|><|vision_end|>{% endif %}{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
QWEN_SPECIAL = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
)


# -- tokenizers --


def clip_tokenizer(length: int = 32) -> Any:
    vocab = {token: number for number, token in enumerate([*BYTES, *(c + "</w>" for c in BYTES)])}
    vocab |= {"<|startoftext|>": len(vocab), "<|endoftext|>": len(vocab) + 1}
    return transformers.CLIPTokenizer(vocab=vocab, merges=[], model_max_length=length)


def t5_tokenizer(length: int = 64) -> Any:
    letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.,:;!?'-"
    vocab = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", -9.0), ("▁", -2.0), *((c, -3.0) for c in letters)]
    return transformers.T5Tokenizer(vocab=vocab, extra_ids=0, model_max_length=length)


def qwen_tokenizer() -> Any:
    vocab = {token: number for number, token in enumerate(BYTES)}
    vocab |= {token: len(vocab) + number for number, token in enumerate(QWEN_SPECIAL)}
    made = transformers.Qwen2Tokenizer(
        vocab=vocab,
        merges=[],
        pad_token="<|endoftext|>",
        eos_token="<|im_end|>",
        additional_special_tokens=list(QWEN_SPECIAL),
        model_max_length=4096,
    )
    made.chat_template = CHAT
    return made


# -- networks --


def _eval(module: Any) -> Any:
    return module.eval().requires_grad_(False)


def clip_text(projection: bool = False, hidden: int = 32, length: int = 32) -> Any:
    tokenizer = clip_tokenizer(length)
    config = transformers.CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=hidden,
        intermediate_size=37,
        num_hidden_layers=3,
        num_attention_heads=4,
        projection_dim=hidden,
        max_position_embeddings=length,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    kind = transformers.CLIPTextModelWithProjection if projection else transformers.CLIPTextModel
    return _eval(kind(config)), tokenizer


def clip_vision(hidden: int = 32, size: int = 32) -> Any:
    config = transformers.CLIPVisionConfig(
        hidden_size=hidden,
        intermediate_size=37,
        num_hidden_layers=2,
        num_attention_heads=4,
        projection_dim=hidden,
        image_size=size,
        patch_size=8,
    )
    made = _eval(transformers.CLIPVisionModelWithProjection(config))
    return made, transformers.CLIPImageProcessor(
        size={"shortest_edge": size}, crop_size={"height": size, "width": size}
    )


def t5_text(hidden: int = 32) -> Any:
    tokenizer = t5_tokenizer()
    config = transformers.T5Config(
        vocab_size=len(tokenizer),
        d_model=hidden,
        d_kv=8,
        d_ff=37,
        num_layers=2,
        num_heads=4,
        decoder_start_token_id=0,
    )
    return _eval(transformers.T5EncoderModel(config)), tokenizer


def qwen_text(hidden: int = 32, layers: int = 3) -> Any:
    tokenizer = qwen_tokenizer()
    config = transformers.Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=hidden,
        intermediate_size=37,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        max_position_embeddings=4096,
    )
    return _eval(transformers.Qwen3ForCausalLM(config)), tokenizer


def qwen_vision_text(hidden: int = 32) -> Any:
    tokenizer = qwen_tokenizer()
    number = tokenizer.convert_tokens_to_ids
    config = transformers.Qwen2_5_VLConfig(
        text_config={
            "vocab_size": len(tokenizer),
            "hidden_size": hidden,
            "intermediate_size": 37,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 8192,
            "rope_parameters": {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 1e4},
            "bos_token_id": number("<|im_start|>"),
            "eos_token_id": number("<|im_end|>"),
        },
        vision_config={
            "depth": 2,
            "hidden_size": hidden,
            "intermediate_size": 37,
            "num_heads": 4,
            "out_hidden_size": hidden,
            "window_size": 112,
            "fullatt_block_indexes": [1],
        },
        image_token_id=number("<|image_pad|>"),
        video_token_id=number("<|video_pad|>"),
        vision_start_token_id=number("<|vision_start|>"),
        vision_end_token_id=number("<|vision_end|>"),
    )
    images = transformers.Qwen2VLImageProcessor(min_pixels=56 * 56, max_pixels=56 * 56)
    videos = transformers.Qwen2VLVideoProcessor()
    processor = transformers.Qwen2VLProcessor(images, tokenizer, videos, chat_template=CHAT)
    return _eval(transformers.Qwen2_5_VLForConditionalGeneration(config)), tokenizer, processor


def vae(channels: int = 4, shift: float | None = None, blocks: int = 2, **more: Any) -> Any:
    return _eval(
        diffusers.AutoencoderKL(
            block_out_channels=(16,) * blocks,
            down_block_types=("DownEncoderBlock2D",) * blocks,
            up_block_types=("UpDecoderBlock2D",) * blocks,
            latent_channels=channels,
            norm_num_groups=8,
            sample_size=SIZE,
            shift_factor=shift,
            **more,
        )
    )


def unet(channels: int, context: int = 32, size: int = SIZE // 2, **more: Any) -> Any:
    return _eval(
        diffusers.UNet2DConditionModel(
            sample_size=size,
            in_channels=channels,
            out_channels=4,
            layers_per_block=1,
            block_out_channels=(16, 32),
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            cross_attention_dim=context,
            attention_head_dim=4,
            norm_num_groups=8,
            **more,
        )
    )


def safety() -> Any:
    config = transformers.CLIPConfig(
        vision_config={
            "hidden_size": 32,
            "intermediate_size": 37,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "image_size": 32,
            "patch_size": 8,
        },
        projection_dim=32,
    )
    from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker

    made = _eval(StableDiffusionSafetyChecker(config))
    made.special_care_embeds_weights.fill_(1.0)
    return made, transformers.CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})


def ddim() -> Any:
    return diffusers.DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )


def flow(**more: Any) -> Any:
    return diffusers.FlowMatchEulerDiscreteScheduler(**more)


# -- pipelines --


def sd(kind: str, channels: int, **more: Any) -> Any:
    text, tokenizer = clip_text()
    return getattr(diffusers, kind)(
        vae=vae(),
        text_encoder=text,
        tokenizer=tokenizer,
        unet=unet(channels),
        scheduler=ddim(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
        **more,
    )


def sd_safe(weight: float = 1.0) -> Any:
    """Return 9-channel Stable Diffusion whose safety checker flags nothing (``weight`` 1) or everything (-1)."""
    checker, extractor = safety()
    checker.concept_embeds_weights.fill_(weight)
    text, tokenizer = clip_text()
    return diffusers.StableDiffusionInpaintPipeline(
        vae=vae(),
        text_encoder=text,
        tokenizer=tokenizer,
        unet=unet(9),
        scheduler=ddim(),
        safety_checker=checker,
        feature_extractor=extractor,
    )


def sd_controlnet() -> Any:
    text, tokenizer = clip_text()
    control = _eval(
        diffusers.ControlNetModel(
            block_out_channels=(16, 32),
            layers_per_block=1,
            in_channels=4,
            cross_attention_dim=32,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            conditioning_embedding_out_channels=(8, 8),
            attention_head_dim=4,
            norm_num_groups=8,
        )
    )
    last = control.controlnet_cond_embedding.conv_out
    for part in (
        *control.controlnet_down_blocks,
        control.controlnet_mid_block,
        last,
    ):  # zero convolutions would hide it
        torch.nn.init.normal_(part.weight, std=0.5)
    return diffusers.StableDiffusionControlNetInpaintPipeline(
        vae=vae(),
        text_encoder=text,
        tokenizer=tokenizer,
        unet=unet(4),
        controlnet=control,
        scheduler=ddim(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def sdxl(kind: str, channels: int) -> Any:
    first, tokenizer = clip_text()
    second, tokenizer_2 = clip_text(projection=True)
    network = unet(
        channels,
        64,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        transformer_layers_per_block=(1, 1),
        use_linear_projection=True,
        projection_class_embeddings_input_dim=32 + 6 * 8,
    )
    extra = {"requires_aesthetics_score": False} if "Inpaint" in kind else {}
    return getattr(diffusers, kind)(
        vae=vae(),
        text_encoder=first,
        text_encoder_2=second,
        tokenizer=tokenizer,
        tokenizer_2=tokenizer_2,
        unet=network,
        scheduler=ddim(),
        add_watermarker=False,
        **extra,
    )


def sd3(kind: str) -> Any:
    first, tokenizer = clip_text(projection=True)
    second, tokenizer_2 = clip_text(projection=True)
    third, tokenizer_3 = t5_text(64)
    network = _eval(
        diffusers.SD3Transformer2DModel(
            sample_size=SIZE // 2,
            patch_size=2,
            in_channels=16,
            num_layers=2,
            attention_head_dim=8,
            num_attention_heads=4,
            joint_attention_dim=64,
            caption_projection_dim=32,
            pooled_projection_dim=64,
            out_channels=16,
        )
    )
    return getattr(diffusers, kind)(
        transformer=network,
        scheduler=flow(),
        vae=vae(16, 0.0),
        text_encoder=first,
        tokenizer=tokenizer,
        text_encoder_2=second,
        tokenizer_2=tokenizer_2,
        text_encoder_3=third,
        tokenizer_3=tokenizer_3,
    )


def flux(kind: str, in_channels: int = 16, guidance: bool = True) -> Any:
    """Return FLUX on latents of 4 channels, packed 2x2 to 16.

    Fill adds 16 channels of the masked image and 4 * factor**2 of the mask.
    """
    first, tokenizer = clip_text()
    second, tokenizer_2 = t5_text()
    network = _eval(
        diffusers.FluxTransformer2DModel(
            patch_size=1,
            in_channels=in_channels,
            out_channels=16,
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=32,
            pooled_projection_dim=32,
            guidance_embeds=guidance,
            axes_dims_rope=(4, 4, 8),
        )
    )
    return getattr(diffusers, kind)(
        scheduler=flow(use_dynamic_shifting=True),
        vae=vae(4, 0.0),
        text_encoder=first,
        tokenizer=tokenizer,
        text_encoder_2=second,
        tokenizer_2=tokenizer_2,
        transformer=network,
    )


def chroma(kind: str) -> Any:
    text, tokenizer = t5_text()
    network = _eval(
        diffusers.ChromaTransformer2DModel(
            patch_size=1,
            in_channels=16,
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=32,
            axes_dims_rope=(4, 4, 8),
            approximator_num_channels=8,
            approximator_hidden_dim=32,
            approximator_layers=1,
        )
    )
    network.register_to_config(guidance_embeds=False)  # 0.42.1's inpaint pipeline reads it and the class lacks it
    return getattr(diffusers, kind)(
        scheduler=flow(), vae=vae(4, 0.0), text_encoder=text, tokenizer=tokenizer, transformer=network
    )


def flux2(kind: str) -> Any:
    text, tokenizer = qwen_text(16, 3)
    network = _eval(
        diffusers.Flux2Transformer2DModel(
            patch_size=1,
            in_channels=16,
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=48,
            timestep_guidance_channels=32,
            axes_dims_rope=(4, 4, 4, 4),
            guidance_embeds=False,
        )
    )
    encoder = _eval(
        diffusers.AutoencoderKLFlux2(
            block_out_channels=(16, 16),
            down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2,
            latent_channels=4,
            norm_num_groups=8,
            sample_size=SIZE,
        )
    )
    return getattr(diffusers, kind)(
        scheduler=flow(), vae=encoder, text_encoder=text, tokenizer=tokenizer, transformer=network
    )


def z_image(kind: str) -> Any:
    text, tokenizer = qwen_text(32, 3)
    network = _eval(
        diffusers.ZImageTransformer2DModel(
            in_channels=4,
            dim=32,
            n_layers=1,
            n_refiner_layers=1,
            n_heads=2,
            n_kv_heads=2,
            cap_feat_dim=32,
            axes_dims=[8, 4, 4],
            axes_lens=[1024, 256, 256],
        )
    )
    for token in (network.x_pad_token, network.cap_pad_token):  # torch.empty: else the same seed gives other weights
        torch.nn.init.normal_(token)
    return getattr(diffusers, kind)(
        scheduler=flow(), vae=vae(4, 0.0), text_encoder=text, tokenizer=tokenizer, transformer=network
    )


def qwen(kind: str) -> Any:
    text, tokenizer, processor = qwen_vision_text()
    network = _eval(
        diffusers.QwenImageTransformer2DModel(
            patch_size=2,
            in_channels=16,
            out_channels=4,
            num_layers=2,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=32,
            guidance_embeds=False,
            axes_dims_rope=(8, 4, 4),
        )
    )
    encoder = _eval(
        diffusers.AutoencoderKLQwenImage(
            base_dim=8,
            z_dim=4,
            dim_mult=[1, 1, 1, 1],
            num_res_blocks=1,
            temperal_downsample=[False, True, True],
            latents_mean=[0.0] * 4,
            latents_std=[1.0] * 4,
        )
    )
    parts = {
        "scheduler": flow(use_dynamic_shifting=True),
        "vae": encoder,
        "text_encoder": text,
        "tokenizer": tokenizer,
        "transformer": network,
    }
    pipeline = getattr(diffusers, kind)
    if "processor" in inspect.signature(pipeline.__init__).parameters:
        parts["processor"] = processor
    return pipeline(**parts)


def kandinsky22() -> Any:
    """Return the decoder and the prior in one, as AutoPipelineForInpainting does."""
    text, tokenizer = clip_text(projection=True)
    vision, processor = clip_vision()
    network = _eval(
        diffusers.UNet2DConditionModel(
            in_channels=9,
            out_channels=8,
            addition_embed_type="image",
            down_block_types=("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"),
            up_block_types=("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"),
            mid_block_type="UNetMidBlock2DSimpleCrossAttn",
            block_out_channels=(16, 32),
            layers_per_block=1,
            encoder_hid_dim=32,
            encoder_hid_dim_type="image_proj",
            cross_attention_dim=32,
            attention_head_dim=4,
            resnet_time_scale_shift="scale_shift",
            class_embed_type=None,
            norm_num_groups=8,
            sample_size=8,
        )
    )
    movq = _eval(
        diffusers.VQModel(
            block_out_channels=(32, 64),
            down_block_types=("DownEncoderBlock2D", "AttnDownEncoderBlock2D"),
            in_channels=3,
            latent_channels=4,
            layers_per_block=1,
            norm_num_groups=8,
            norm_type="spatial",
            num_vq_embeddings=12,
            out_channels=3,
            up_block_types=("AttnUpDecoderBlock2D", "UpDecoderBlock2D"),
            vq_embed_dim=4,
        )
    )
    prior = _eval(
        diffusers.PriorTransformer(
            num_attention_heads=2,
            attention_head_dim=12,
            embedding_dim=32,
            num_layers=1,
            num_embeddings=32,
        )
    )
    prior.clip_std = torch.nn.Parameter(torch.ones_like(prior.clip_std))
    return diffusers.KandinskyV22InpaintCombinedPipeline(
        unet=network,
        scheduler=ddim(),
        movq=movq,
        prior_prior=prior,
        prior_image_encoder=vision,
        prior_text_encoder=text,
        prior_tokenizer=tokenizer,
        prior_scheduler=diffusers.UnCLIPScheduler(
            variance_type="fixed_small_log", prediction_type="sample", num_train_timesteps=1000, clip_sample_range=5.0
        ),
        prior_image_processor=processor,
    )


KINDS: dict[str, Callable[[], Any]] = {
    "sd_text_to_image": lambda: sd("StableDiffusionPipeline", 4),
    "sdxl_text_to_image": lambda: sdxl("StableDiffusionXLPipeline", 4),
    "sd_inpaint_9ch": lambda: sd("StableDiffusionInpaintPipeline", 9),
    "sd_inpaint_4ch": lambda: sd("StableDiffusionInpaintPipeline", 4),
    "sd_inpaint_safe": sd_safe,
    "sd_img2img": lambda: sd("StableDiffusionImg2ImgPipeline", 4),
    "sd_pix2pix": lambda: sd("StableDiffusionInstructPix2PixPipeline", 8),
    "sd_controlnet_inpaint": sd_controlnet,
    "sdxl_inpaint_9ch": lambda: sdxl("StableDiffusionXLInpaintPipeline", 9),
    "sdxl_inpaint_4ch": lambda: sdxl("StableDiffusionXLInpaintPipeline", 4),
    "sdxl_pix2pix": lambda: sdxl("StableDiffusionXLInstructPix2PixPipeline", 8),
    "sd3_inpaint": lambda: sd3("StableDiffusion3InpaintPipeline"),
    "flux_fill": lambda: flux("FluxFillPipeline", 16 + 16 + 4 * 2 * 2),
    "flux_inpaint": lambda: flux("FluxInpaintPipeline"),
    "flux_kontext": lambda: flux("FluxKontextPipeline"),
    "flux_kontext_inpaint": lambda: flux("FluxKontextInpaintPipeline"),
    "chroma_inpaint": lambda: chroma("ChromaInpaintPipeline"),
    "flux2_klein": lambda: flux2("Flux2KleinPipeline"),
    "flux2_klein_inpaint": lambda: flux2("Flux2KleinInpaintPipeline"),
    "z_image_inpaint": lambda: z_image("ZImageInpaintPipeline"),
    "qwen_inpaint": lambda: qwen("QwenImageInpaintPipeline"),
    "qwen_edit": lambda: qwen("QwenImageEditPipeline"),
    "qwen_edit_plus": lambda: qwen("QwenImageEditPlusPipeline"),
    "qwen_edit_inpaint": lambda: qwen("QwenImageEditInpaintPipeline"),
    "kandinsky22_inpaint": kandinsky22,
}
# Rows of one call mix or are refused in diffusers 0.42: a list of images is several references of one edit
# (flux2_klein), the first row's image and mask are blended into all (kandinsky22), more than one prompt raises (plus).
ONE_A_CALL = {"flux2_klein", "kandinsky22_inpaint", "qwen_edit_plus"}
# What a call of each kind needs besides image, mask, prompt, steps and generators, so that it is quick.
CALL: dict[str, dict[str, Any]] = {
    "flux_kontext": {"_auto_resize": False, "max_area": SIZE * SIZE},
    "flux_kontext_inpaint": {"_auto_resize": False, "max_area": SIZE * SIZE},
    "flux2_klein": {"text_encoder_out_layers": (1, 2, 3), "max_sequence_length": 64},
    "flux2_klein_inpaint": {"text_encoder_out_layers": (1, 2, 3), "max_sequence_length": 64},
    "z_image_inpaint": {"max_sequence_length": 64},
    "sd_controlnet_inpaint": {"controlnet_conditioning_scale": 1.0},
    "kandinsky22_inpaint": {"prior_num_inference_steps": 2},
}
for _name in ("flux_fill", "flux_inpaint", "flux_kontext", "flux_kontext_inpaint", "chroma_inpaint", "sd3_inpaint"):
    CALL.setdefault(_name, {})["max_sequence_length"] = 48


def small_qwen(area: int = SIZE * SIZE) -> None:
    """Make Qwen's edit pipelines resize images to ``area`` pixels: they take a megapixel, whatever height and width."""
    from diffusers.pipelines.qwenimage import (
        pipeline_qwenimage_edit as edit,
    )
    from diffusers.pipelines.qwenimage import (
        pipeline_qwenimage_edit_inpaint as inpaint,
    )
    from diffusers.pipelines.qwenimage import (
        pipeline_qwenimage_edit_plus as plus,
    )

    for module in (edit, inpaint, plus):
        if not hasattr(module, "_whole"):
            module._whole = module.calculate_dimensions

            def smaller(target: int, ratio: float, whole: Any = module._whole) -> Any:
                return whole(area, ratio)

            module.calculate_dimensions = smaller


def build(kind: str, seed: int = 0) -> Any:
    """Return a pipeline of this kind: the same weights for the same seed. No progress bar, float32, on the CPU."""
    if kind.startswith("qwen_edit"):
        small_qwen()
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        pipe = KINDS[kind]()
    pipe.set_progress_bar_config(disable=True)
    return pipe


def save(kind: str, folder: Path, seed: int = 0) -> str:
    """Write the folder of a pipeline of this kind, as published ones are laid out. Return its path."""
    build(kind, seed).save_pretrained(folder)
    return str(folder)


PROMPTS = ["a cat", "two red apples on a table", "", "a very long prompt, longer than the others by far: blue sky"]


def inputs(count: int = 4, size: int = SIZE, seed: int = 0) -> tuple[list[Any], list[Any], list[str], list[int]]:
    """Return images, masks (white is edited), prompts of different lengths, and seeds."""
    numbers = np.random.default_rng(seed)
    images, masks = [], []
    for k in range(count):
        coarse = numbers.integers(0, 256, (8, 8, 3), dtype=np.uint8)
        images.append(Image.fromarray(coarse).resize((size, size), Image.Resampling.BICUBIC))
        mask = np.zeros((size, size), np.uint8)
        mask[8 + 2 * k : 40, 8 : 36 + 4 * k] = 255
        masks.append(Image.fromarray(mask))
    return images, masks, [PROMPTS[k % len(PROMPTS)] for k in range(count)], [11 + k for k in range(count)]


def names(pipe: Any) -> set[str]:
    return set(inspect.signature(type(pipe).__call__).parameters)


def call(pipe: Any, kind: str, images: Any, masks: Any, prompts: Any, seeds: list[int], **more: Any) -> np.ndarray:
    """Run diffusers' own loop with one generator per row. Return [B, H, W, 3] float in [0, 1]."""
    known = names(pipe)
    images, masks, prompts = list(images), list(masks), list(prompts)  # Z-Image writes its chat template into the list
    given: dict[str, Any] = {"image": images, "prompt": prompts, "num_inference_steps": 4, "output_type": "np"}
    given["generator"] = [torch.Generator("cpu").manual_seed(seed) for seed in seeds]
    if "mask_image" in known:
        given["mask_image"] = masks
    if "control_image" in known:
        given["control_image"] = images
    if {"height", "width"} <= known:
        given |= {"height": SIZE, "width": SIZE}
    if "true_cfg_scale" in known and "negative_prompt" in known:
        given |= {"true_cfg_scale": 3.0, "negative_prompt": ["blurred"] * len(prompts)}
    given |= CALL.get(kind, {})
    given |= more
    return np.asarray(pipe(**given).images)
