"""Build a pipeline of diffusers from a job's weights, and settle scheduler, LoRAs, memory, attention and caches.

Nothing here runs code of a repository: a class is one of diffusers' own.
"""

from __future__ import annotations

import inspect
import json
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import torch

from retouch import validation
from retouch.editors.diffusers.families import FLUX_EMBEDS, Family, family_of
from retouch.editors.diffusers.params import Params
from retouch.errors import ConfigError, RetouchError, WeightsError
from retouch.models.diffusers_networks import load_network
from retouch.models.weights import NETWORK
from retouch.models.weights.diffusers_folder import CONFIG_FILE

IMAGE_ARGUMENTS: Final = ("image", "images", "input_image", "reference_image")
MASK_ARGUMENTS: Final = ("mask_image", "mask")
IP_ADAPTER: Final = "ip_adapter"
REDUX: Final = "redux"  # FLUX's encoder of exemplars, whose tokens follow the prompt's
CHECKPOINT: Final = "checkpoint"  # all networks in one file, with their configurations in role ``config``
LORA: Final = "lora"  # role of one adapter; ``lora.NAME`` of several
SCHEDULERS: Final[Mapping[str, str]] = {
    "ddim": "DDIMScheduler",
    "ddpm": "DDPMScheduler",
    "deis": "DEISMultistepScheduler",
    "dpm++": "DPMSolverMultistepScheduler",
    "dpm++_single": "DPMSolverSinglestepScheduler",
    "edm_euler": "EDMEulerScheduler",
    "euler": "EulerDiscreteScheduler",
    "euler_a": "EulerAncestralDiscreteScheduler",
    "flow_euler": "FlowMatchEulerDiscreteScheduler",
    "heun": "HeunDiscreteScheduler",
    "kdpm2": "KDPM2DiscreteScheduler",
    "kdpm2_a": "KDPM2AncestralDiscreteScheduler",
    "lcm": "LCMScheduler",
    "lms": "LMSDiscreteScheduler",
    "pndm": "PNDMScheduler",
    "unipc": "UniPCMultistepScheduler",
}
# Step caches: class of its settings, and whether what it skips depends on all rows of a call.
CACHES: Final[Mapping[str, tuple[str, bool]]] = {
    "first_block": ("FirstBlockCacheConfig", True),
    "magcache": ("MagCacheConfig", False),
    "taylorseer": ("TaylorSeerCacheConfig", False),
    "pyramid": ("PyramidAttentionBroadcastConfig", False),
}
# Extras that bring packages which diffusers asks for by name.
EXTRAS: Final[Mapping[str, str]] = {
    "accelerate": "diffusers",
    "peft": "diffusers",
    "sentencepiece": "diffusers",
    "protobuf": "diffusers",
    "bitsandbytes": "quantization",
    "gguf": "quantization",
    "torchao": "quantization",
}


@dataclass(frozen=True)
class Loaded:
    """A pipeline, ready to be called."""

    pipe: Any
    family: Family
    adapters: tuple[str, ...]  # names of its LoRAs
    has_ip_adapter: bool  # an exemplar guides besides the prompt
    rows_per_call: int | None  # None: as many as given
    redux: Any = None  # FluxPriorReduxPipeline: exemplars become further tokens of the prompt

    @property
    def name(self) -> str:
        """Name of the pipeline's class."""
        return type(self.pipe).__name__

    @cached_property
    def arguments(self) -> Mapping[str, inspect.Parameter]:
        """Arguments of the pipeline's call."""
        return _arguments(type(self.pipe))

    @property
    def image_argument(self) -> str:
        """Name of the argument for the source image."""
        return next(name for name in IMAGE_ARGUMENTS if name in self.arguments)

    @property
    def mask_argument(self) -> str | None:
        """Name of the argument for the mask; None if the pipeline edits whole images."""
        return next((name for name in MASK_ARGUMENTS if name in self.arguments), None)

    @property
    def exemplar_argument(self) -> str | None:
        """Name of the argument for exemplars; None if none is read."""
        if self.has_ip_adapter:
            return "ip_adapter_image"
        return "image_reference" if "image_reference" in self.arguments else None

    @property
    def exemplar_side(self) -> int | None:
        """Side of the exemplars that IP-Adapter's or Redux' encoder takes, in pixels; None: the network's."""
        owner = self.pipe if self.has_ip_adapter else self.redux
        return None if owner is None else int(owner.image_encoder.config.image_size)

    @property
    def denoiser(self) -> Any:
        """The network that is run at each step."""
        return getattr(self.pipe, "transformer", None) or getattr(self.pipe, "unet", None)

    def default(self, argument: str) -> Any:
        """Return the pipeline's default for an argument of its call; None if it has no such argument."""
        found = self.arguments.get(argument)
        return None if found is None or found.default is inspect.Parameter.empty else found.default


def load(params: Params, weights: Mapping[str, str], device: str) -> Loaded:
    """Return the pipeline of a job.

    Raises:
        ConfigError: params that the pipeline cannot follow.
        WeightsError: weights that are missing, of another family, or need a package that is not installed.
    """
    index = Path(weights[_index_role(weights)])
    import diffusers

    quiet()
    with as_weights_error(f"diffusers folder {index.parent}"):
        pipe = _from_folder(diffusers, index, params, weights)
    family = family_of(type(pipe).__name__)
    _check_class(type(pipe), params)
    if params.scheduler is not None:
        pipe.scheduler = _scheduler(diffusers, pipe.scheduler, params.scheduler)
    _refuse_random_scheduler(pipe)
    adapters = _load_loras(pipe, weights, params)
    has_ip_adapter = _load_ip_adapter(diffusers, pipe, weights, params)
    # An IP-Adapter takes a list of images as several exemplars of every row.
    batches = family.batches and params.rows_per_call == "auto" and not has_ip_adapter
    rows_per_call = None if batches else 1
    if params.cache is not None:
        rows_per_call = _enable_cache(diffusers, pipe, family, params.cache) or rows_per_call
    redux = _load_redux(diffusers, family, weights, params)
    if params.exemplar_scale is not None and not (has_ip_adapter or redux):
        raise ConfigError(
            f"exemplar_scale is set and the weights have no role {IP_ADAPTER} or {REDUX}; name one, or leave it out"
        )
    _place(pipe, params, device)
    if redux is not None:
        redux.to(device)
    return Loaded(pipe, family, adapters, has_ip_adapter, rows_per_call, redux)


def _index_role(weights: Mapping[str, str]) -> str:
    """Return the role of the pipeline's folder: config if one file has its networks. Raises WeightsError if none is."""
    role = "config" if CHECKPOINT in weights else "model_index"
    if role in weights:
        return role
    if CHECKPOINT in weights:
        raise WeightsError(
            f"{CHECKPOINT} needs role config: the diffusers folder of its base model, of which only the configurations "
            "and vocabularies are read"
        )
    raise WeightsError(
        "diffusers needs a folder with model_index.json: name it as the job's weights, or in role model_index"
    )


def quiet() -> None:
    """Turn diffusers' and transformers' progress bars and per-call log lines off; errors stay."""
    import diffusers
    import transformers

    for library in (diffusers.utils.logging, transformers.utils.logging):
        library.set_verbosity_error()
        library.disable_progress_bar()


@contextmanager
def as_weights_error(what: str) -> Iterator[None]:
    """Raise what a library says of weights as one WeightsError, naming the extra that a missing package comes with."""
    try:
        yield
    except RetouchError:
        raise
    except (ImportError, OSError, ValueError, TypeError, KeyError, AttributeError, RuntimeError) as error:
        text = " ".join(str(error).split()) or type(error).__name__
        lowered = text.lower()
        needed = next((package for package in EXTRAS if package in lowered), None)
        if needed is not None and (isinstance(error, ImportError) or "install" in lowered or "required" in lowered):
            extra = EXTRAS[needed]
            raise WeightsError(f"{what}: needs the package {needed}; install retouch[{extra}]") from None
        raise WeightsError(f"{what} does not load: {text[:400]}") from None


def pipeline_name(index: Path) -> str:
    """Return the class that a ``model_index.json`` names. Raises WeightsError if it names none of diffusers' own."""
    try:
        named = json.loads(index.read_text())["_class_name"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise WeightsError(f"{index} names no pipeline class: {error!r}") from None
    if not isinstance(named, str):
        raise WeightsError(f"{index} names code of its repository, {named}; such pipelines are not run")
    return named


def _from_folder(diffusers: Any, index: Path, params: Params, weights: Mapping[str, str]) -> Any:
    """Return the pipeline of a folder in the class that fits the task."""
    name = params.pipeline or pipeline_name(index)
    found = getattr(diffusers, name, None)
    if not (inspect.isclass(found) and issubclass(found, diffusers.DiffusionPipeline)):
        known = [x for x in dir(diffusers) if x.endswith("Pipeline")]
        near = validation.nearest(name, known)
        raise WeightsError(
            f"{index.parent} needs the pipeline {name}, which diffusers {diffusers.__version__} lacks{near}"
        )
    if name == "PaintByExamplePipeline":
        raise WeightsError(f"{index.parent} is Paint by Example's; take editor.name: paint_by_example")
    keywords: dict[str, Any] = {"dtype": getattr(torch, params.precision), "local_files_only": True}
    if "controlnet" in weights:
        keywords["controlnet"] = _component(diffusers, weights["controlnet"], params)
    if not params.safety_checker and "safety_checker" in inspect.signature(found.__init__).parameters:
        keywords |= {"safety_checker": None, "requires_safety_checker": False}
    for role, path in weights.items():
        if role.startswith(NETWORK):
            name = role.removeprefix(NETWORK)
            keywords[name] = _replacement(diffusers, index, name, path, params)
    if CHECKPOINT in weights:
        return _from_checkpoint(diffusers, found, index, params, weights, keywords)
    left = None  # components that the pipeline itself loads: all of them, or those that it quantizes
    if params.quantization is not None:
        keywords["quantization_config"] = _quantization(diffusers, params.quantization)
        left = params.quantization.get("components")
    if params.quantization is None or left is not None:
        keywords = _networks(diffusers, index, params, {*keywords, *(left or ())}) | keywords
    return _loader(diffusers, found, params, "controlnet" in weights).from_pretrained(str(index.parent), **keywords)


def _from_checkpoint(
    diffusers: Any, found: Any, index: Path, params: Params, weights: Mapping[str, str], keywords: dict[str, Any]
) -> Any:
    """Return the pipeline of one file in the original authors' layout, in the class that fits the task."""
    control = {name: keywords.pop(name) for name in ("controlnet",) if name in keywords}
    if params.quantization is not None:
        raise ConfigError(f"quantization: role {CHECKPOINT} is not quantized; give a diffusers folder, or leave it out")
    _require_accelerate(weights[CHECKPOINT])
    dtype = keywords.pop("dtype")
    with _as_missing(weights[CHECKPOINT]):
        pipe = found.from_single_file(weights[CHECKPOINT], config=str(index.parent), **keywords)
    for name, network in pipe.components.items():
        if isinstance(network, torch.nn.Module):
            _refuse_missing(network, f"{weights[CHECKPOINT]}: {name}")
    pipe.to(dtype=dtype)
    loader = _loader(diffusers, found, params, bool(control))
    return pipe if loader is found else loader.from_pipe(pipe, **control)


def _replacement(diffusers: Any, index: Path, name: str, path: str, params: Params) -> Any:
    """Return a component from its own folder or file, in diffusers' or the original authors' layout, or GGUF."""
    if Path(path).name == CONFIG_FILE:
        return _component(diffusers, path, params)
    named = json.loads(index.read_text()).get(name)
    if named is None:
        raise WeightsError(f"{index.parent} has no {name}; leave role {NETWORK}{name} out")
    kind: Any = getattr(diffusers, named[1], None)
    if not hasattr(kind, "from_single_file"):
        raise WeightsError(f"{NETWORK}{name}: a {named[1]} is not read from one file; give its folder")
    _require_accelerate(path)
    dtype = getattr(torch, params.precision)
    more = {}
    if is_quantized := path.endswith(".gguf"):
        more = {"quantization_config": diffusers.GGUFQuantizationConfig(compute_dtype=dtype), "torch_dtype": dtype}
    with as_weights_error(f"{name} {path}"), _as_missing(path):
        network = kind.from_single_file(path, config=str(index.parent), subfolder=name, local_files_only=True, **more)
    _refuse_missing(network, path)
    return network if is_quantized else network.to(dtype)


def _require_accelerate(path: str) -> None:
    # Without it diffusers fills weights that the file lacks with random numbers, and nothing tells them apart.
    if find_spec("accelerate") is None:
        raise WeightsError(f"{path}: needs the package accelerate; install retouch[diffusers]")


@contextmanager
def _as_missing(where: str) -> Iterator[None]:
    """Raise a WeightsError that names the file if torch refuses to move a weight that no file has filled."""
    try:
        yield
    except NotImplementedError as error:
        raise WeightsError(f"{where} lacks weights of this pipeline ({error}); take another file") from None


def _refuse_missing(network: torch.nn.Module, where: str) -> None:
    if missing := [name for name, value in network.named_parameters() if value.is_meta]:
        raise WeightsError(f"{where} lacks {len(missing)} weights (first: {missing[0]}); take another file")


def _loader(diffusers: Any, found: type, params: Params, has_control: bool) -> Any:
    """Return the class that loads the folder: its own, or one that finds the same networks' pipeline for the task."""
    if params.pipeline is not None:
        return found
    names = _arguments(found)
    masks, images = any(n in names for n in MASK_ARGUMENTS), any(n in names for n in IMAGE_ARGUMENTS)
    if params.task == "auto" and images and not has_control:
        return found
    if params.task == "edit":
        return found if images and not masks else diffusers.AutoPipelineForImage2Image
    return found if masks and not has_control else diffusers.AutoPipelineForInpainting


def _networks(diffusers: Any, index: Path, params: Params, without: Collection[str]) -> dict[str, Any]:
    """Return the networks that a ``model_index.json`` names, by component, except some."""
    import transformers

    found: dict[str, Any] = {}
    for name, value in json.loads(index.read_text()).items():
        if name in without or not (isinstance(value, list) and len(value) == 2 and value[0] is not None):
            continue
        library, kind = value
        home = {"diffusers": diffusers, "transformers": transformers}.get(library)
        network = getattr(home or getattr(diffusers.pipelines, library, None), kind, None)
        if inspect.isclass(network) and issubclass(network, torch.nn.Module):
            found[name] = load_network(index.parent / name, network, getattr(torch, params.precision))
    return found


def _component(diffusers: Any, config: str, params: Params) -> Any:
    """Return one network of diffusers or transformers from its own folder, whose config.json is given."""
    import transformers

    described = json.loads(Path(config).read_text())
    name = described.get("_class_name") or (described.get("architectures") or [""])[0]
    found = getattr(diffusers, name, None) or getattr(transformers, name, None)
    if found is None:
        raise WeightsError(f"{config} names no network of diffusers or transformers: {name or 'nothing'}")
    return load_network(Path(config).parent, found, getattr(torch, params.precision))


def _quantization(diffusers: Any, settings: Mapping[str, Any]) -> Any:
    rest = {name: value for name, value in settings.items() if name not in ("backend", "components")}
    try:
        return diffusers.PipelineQuantizationConfig(
            quant_backend=settings["backend"],
            quant_kwargs=rest,
            components_to_quantize=settings.get("components"),
        )
    except (ValueError, TypeError) as error:
        raise ConfigError(f"quantization: {' '.join(str(error).split())}") from None


def _check_class(pipeline: type, params: Params) -> None:
    """Raise if a pipeline cannot edit images, is not reproducible, or lacks an argument that the job sets."""
    names = _arguments(pipeline)
    if "prompt" not in names or not any(name in names for name in IMAGE_ARGUMENTS):
        raise WeightsError(f"{pipeline.__name__} takes no image and prompt, so it edits nothing; give an edit pipeline")
    if "generator" not in names:
        raise WeightsError(f"{pipeline.__name__} takes no generator, so its edits cannot be reproduced")
    if params.negative_prompt and "negative_prompt" not in names:
        raise ConfigError(f"negative_prompt: {pipeline.__name__} has none; leave it out")
    if params.control_scale is not None and "controlnet_conditioning_scale" not in names:
        raise ConfigError("control_scale is set and the weights have no role controlnet; name one, or leave it out")
    for argument in params.given_arguments():
        if argument not in names:
            near = validation.nearest(argument, names)
            raise ConfigError(
                f"{pipeline.__name__} has no argument {argument}{near}; its arguments: {', '.join(names)}"
            )


def _arguments(pipeline: type) -> dict[str, inspect.Parameter]:
    """Return the arguments of a pipeline's call."""
    call: Callable[..., Any] = pipeline.__call__
    return {
        name: found
        for name, found in inspect.signature(call).parameters.items()
        if name != "self" and found.kind is not inspect.Parameter.VAR_KEYWORD
    }


def _scheduler(diffusers: Any, current: Any, wanted: str | Mapping[str, Any]) -> Any:
    """Return another scheduler with the configuration of the weights' own and the job's settings."""
    settings = {"name": wanted} if isinstance(wanted, str) else dict(wanted)
    name = settings.pop("name")
    found = getattr(diffusers, SCHEDULERS.get(name, name), None)
    if not (inspect.isclass(found) and issubclass(found, diffusers.SchedulerMixin)):
        near = validation.nearest(name, SCHEDULERS)
        raise ConfigError(f"scheduler {name!r} is not known{near}; known: {', '.join(SCHEDULERS)}")
    fitting = {type(current), *current.compatibles}
    if diffusers.DDIMScheduler in fitting:  # LCM reads the same configuration, but neither of the two names the other
        fitting.add(diffusers.LCMScheduler)
    if found not in fitting:
        names = [ours for ours, theirs in SCHEDULERS.items() if theirs in {kind.__name__ for kind in fitting}]
        raise ConfigError(f"scheduler {name!r} does not fit {type(current).__name__}; fitting: {', '.join(names)}")
    known = inspect.signature(found.__init__).parameters
    if unknown := sorted(set(settings) - set(known)):
        raise ConfigError(validation.unknown(f"scheduler.{unknown[0]}", list(known)))
    try:
        changed: Any = found
        return changed.from_config(current.config, **settings)
    except (ImportError, ValueError, NotImplementedError) as error:
        raise ConfigError(f"scheduler {name!r}: {' '.join(str(error).split())}") from None


def _refuse_random_scheduler(pipe: Any) -> None:
    """Raise ConfigError for a scheduler that draws from the global generator, so that every run gives another image."""
    name = type(pipe.scheduler).__name__
    if name == "FlowMatchLCMScheduler" or pipe.scheduler.config.get("stochastic_sampling"):
        raise ConfigError(f"scheduler: {name} draws noise that no seed controls; take flow_euler without it")
    if name.startswith("FlowMatch") and name != "FlowMatchEulerDiscreteScheduler":
        raise ConfigError(f"scheduler: {name} does not take these pipelines' steps; take flow_euler")


def _load_loras(pipe: Any, weights: Mapping[str, str], params: Params) -> tuple[str, ...]:
    """Load the files of role ``lora`` and ``lora.NAME`` as adapters."""
    adapters = {
        role.removeprefix(f"{LORA}.") if role != LORA else LORA: path
        for role, path in weights.items()
        if role == LORA or role.startswith(f"{LORA}.")
    }
    params.lora_scales(list(adapters))  # raises for a name that is no adapter's
    for name, path in adapters.items():
        if not hasattr(pipe, "load_lora_weights"):
            raise WeightsError(f"{type(pipe).__name__} takes no LoRA; leave role {LORA} out")
        with as_weights_error(f"lora {path}"), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Already found a `peft_config`")  # of the adapter before
            before = _adapter_count(pipe)
            pipe.load_lora_weights(str(Path(path).parent), weight_name=Path(path).name, adapter_name=name)
            if _adapter_count(pipe) == before:
                raise WeightsError(f"lora {path} has no weights for {type(pipe).__name__}; it is of another model")
    return tuple(adapters)


def _load_ip_adapter(diffusers: Any, pipe: Any, weights: Mapping[str, str], params: Params) -> bool:
    """Load the file of role ``ip_adapter``, with the network of role ``image_encoder``. Return whether there is one."""
    if IP_ADAPTER not in weights:
        return False
    if not hasattr(pipe, "load_ip_adapter"):
        raise WeightsError(f"{type(pipe).__name__} takes no IP-Adapter; leave role {IP_ADAPTER} out")
    if getattr(pipe, "image_encoder", None) is None:
        if "image_encoder" not in weights:
            raise WeightsError(
                "ip_adapter needs role image_encoder: the folder of CLIP's image tower that it comes with"
            )
        encoder = _component(diffusers, weights["image_encoder"], params)
        pipe.register_modules(image_encoder=encoder)
    side = int(pipe.image_encoder.config.image_size)
    if getattr(pipe, "feature_extractor", None) is None:
        from transformers import CLIPImageProcessor

        crop = {"height": side, "width": side}
        pipe.register_modules(feature_extractor=CLIPImageProcessor(size={"shortest_edge": side}, crop_size=crop))
    path = Path(weights[IP_ADAPTER])
    with as_weights_error(f"ip_adapter {path}"):
        pipe.load_ip_adapter(str(path.parent), subfolder="", weight_name=path.name, image_encoder_folder=None)
    return True


def _load_redux(diffusers: Any, family: Family, weights: Mapping[str, str], params: Params) -> Any:
    """Return the pipeline of role ``redux``, which encodes exemplars for FLUX; None without that role."""
    if REDUX not in weights:
        return None
    if family.embeds != FLUX_EMBEDS:
        raise WeightsError(f"{REDUX} guides FLUX pipelines with a prompt only; leave role {REDUX} out")
    index = Path(weights[REDUX])
    with as_weights_error(f"{REDUX} {index.parent}"):
        networks = _networks(diffusers, index, params, ())
        return diffusers.FluxPriorReduxPipeline.from_pretrained(str(index.parent), local_files_only=True, **networks)


def _adapter_count(pipe: Any) -> int:
    return sum(len(names) for names in pipe.get_list_adapters().values())


def _enable_cache(diffusers: Any, pipe: Any, family: Family, settings: Mapping[str, Any]) -> int | None:
    """Turn a step cache on. Return 1 if what it skips depends on all rows of a call, else None."""
    rest = dict(settings)
    name = rest.pop("name")
    if name not in CACHES:
        raise ConfigError(f"cache {name!r} is not known{validation.nearest(name, CACHES)}: {', '.join(CACHES)}")
    config, depends = CACHES[name]
    network = getattr(pipe, "transformer", None)
    if network is None or not hasattr(network, "enable_cache"):
        raise ConfigError(f"cache: {type(pipe).__name__} has no network with step caches; leave it out")
    if name in ("first_block", "taylorseer") and not family.offers_cache:
        raise ConfigError(f"cache {name}: {type(pipe).__name__} does not support it in this diffusers; leave it out")
    try:
        network.enable_cache(getattr(diffusers, config)(**rest))
    except (TypeError, ValueError, IndexError) as error:  # IndexError: of a network with a single block
        raise ConfigError(f"cache {name}: {' '.join(str(error).split())}") from None
    return 1 if depends else None


def _place(pipe: Any, params: Params, device: str) -> None:
    """Bring the networks to the device in the job's way."""
    pipe.set_progress_bar_config(disable=True)
    if params.vae_tiling:
        pipe.vae.enable_tiling()
    denoiser: Any = getattr(pipe, "transformer", None) or getattr(pipe, "unet", None)
    if params.attention is not None:
        if not hasattr(denoiser, "set_attention_backend"):
            raise ConfigError(f"attention: {type(pipe).__name__} has no choice of back ends; leave it out")
        try:
            denoiser.set_attention_backend(params.attention)
        except (ValueError, RuntimeError, ImportError) as error:
            raise ConfigError(f"attention {params.attention}: {' '.join(str(error).split())[:400]}") from None
    with as_weights_error(f"offload {params.offload}"):
        if params.offload == "model":
            pipe.enable_model_cpu_offload(device=device)
        elif params.offload == "sequential":
            pipe.enable_sequential_cpu_offload(device=device)
        elif params.offload == "group":
            pipe.enable_group_offload(onload_device=torch.device(device), offload_type="leaf_level")
        else:
            pipe.to(device)
    if params.compile == "whole":
        denoiser.compile(dynamic=False)
    elif params.compile == "blocks":
        if not getattr(denoiser, "_repeated_blocks", None):
            raise ConfigError(f"compile: blocks: {type(denoiser).__name__} names none; take whole")
        denoiser.compile_repeated_blocks(dynamic=False)
