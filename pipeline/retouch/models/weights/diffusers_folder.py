"""Which files of a diffusers folder, or of one component's folder, a loader reads.

One format, one variant, all shards, named components only.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Final

from retouch.errors import WeightsError

INDEX_FILE: Final = "model_index.json"
CONFIG_FILE: Final = "config.json"  # of one component: a ControlNet, an image encoder, ...
# Configurations, vocabularies, SentencePiece models and chat templates.
CARDS: Final = ("*.json", "*.txt", "*.model", "*.jinja")
_STEM: Final = "(?P<stem>diffusion_pytorch_model|pytorch_model|model)"
_FORMAT: Final = r"(?P<format>safetensors|bin)"
# model.safetensors, model.fp16.safetensors, and of shards model.fp16-00001-of-00002.safetensors or, older,
# model-00001-of-00002.fp16.safetensors
_WEIGHTS: Final = re.compile(
    rf"{_STEM}(\.(?P<variant>\w+))?(?P<shard>-\d{{5}}-of-\d{{5}})?(\.(?P<old>\w+))?\.{_FORMAT}"
)
# model.safetensors.index.json, model.safetensors.index.fp16.json, model.safetensors.fp16.index.json
_SHARD_INDEX: Final = re.compile(rf"{_STEM}\.{_FORMAT}(\.(?P<old>\w+))?\.index(\.(?P<variant>\w+))?\.json")


# Classes of components that are read from configurations alone.
_WITHOUT_WEIGHTS: Final = re.compile(r"(Scheduler|Processor|FeatureExtractor)$")
_TOKENIZER: Final = re.compile(r"Tokenizer(Fast)?$")
VOCABULARIES: Final = ("tokenizer.json", "vocab.json", "vocab.txt", "*.model")


@dataclass(frozen=True)
class Kind:
    """What is loaded of a diffusers folder."""

    mark: str  # the file that such a folder has
    has_weights: bool = True  # False: the configurations and vocabularies of a pipeline whose weights are elsewhere

    @property
    def has_components(self) -> bool:
        """Whether the mark names the folder's components."""
        return self.mark == INDEX_FILE


PIPELINE: Final = Kind(INDEX_FILE)
CONFIGURATIONS: Final = Kind(INDEX_FILE, has_weights=False)
COMPONENT: Final = Kind(CONFIG_FILE)  # a single network, such as a ControlNet


@dataclass(frozen=True)
class _WeightFile:
    name: str  # with its folder
    plain: str  # the name of the same file without a variant; shards keep theirs, which the shard index lists
    format: str
    variant: str | None
    is_shard: bool
    is_index: bool


def select(
    names: Iterable[str], index: bytes | None, address: str, variant: str | None = None, kind: Kind = PIPELINE
) -> dict[str, str]:
    """Return the files to load, in order, each with the name under which a loader that knows no variant finds it.

    Of every component that ``model_index.json`` names: its cards and its weights, safetensors rather than pickles. A
    component without the asked variant gives its plain weights; one without plain weights gives its only variant.

    Args:
        names: all files of the folder, relative to it.
        index: content of its ``model_index.json``; None for the folder of one component.
        address: of the folder, for errors.
        variant: ``fp16`` for ``diffusion_pytorch_model.fp16.safetensors``; None for files without a variant.
        kind: without weights if those are not wanted.

    Raises:
        WeightsError: the index is broken, no component has the variant, or shards lack their index.
    """
    classes = {"": ""} if index is None else dict(_components(index, address))
    components: dict[str, list[str]] = {name: [] for name in classes}
    for name in sorted(names):
        folder, _, file = name.rpartition("/")
        if folder in components and file:
            components[folder].append(name)
    found = {} if index is None else {INDEX_FILE: INDEX_FILE}
    variants: set[str] = set()
    for folder, files in components.items():
        weights = [weight for name in files if (weight := _weight_file(name)) is not None]
        if lacks := _lacks(classes[folder], files, has_weights=bool(weights) or not kind.has_weights):
            part = folder or "its network"
            raise WeightsError(f"weights folder {address} has no {lacks} for {part}; copy the whole folder")
        variants |= {weight.variant for weight in weights if weight.variant is not None}
        cards = (name for name in files if _weight_file(name) is None and _is_card(name.rpartition("/")[2]))
        found |= {name: name for name in cards}
        where = f"{address}: {folder}" if folder else address
        if kind.has_weights:
            found |= {weight.name: weight.plain for weight in _chosen(weights, variant, where)}
    if variant is not None and variant not in variants:
        raise WeightsError(
            f"weights folder {address}: no component has the variant {variant!r}; "
            f"it has: {', '.join(sorted(variants)) or 'none'}"
        )
    return dict(sorted(found.items()))


def local_names(folder: Path) -> list[str]:
    """Return the names of a local folder's files and of those one folder below it."""
    paths = (*folder.glob("*"), *folder.glob("*/*"))
    return [path.relative_to(folder).as_posix() for path in paths if path.is_file()]


def check_shards(folder: Path, files: Iterable[str]) -> None:
    """Raise WeightsError if a shard index among a folder's files names a shard that is missing."""
    for name in files:
        if _SHARD_INDEX.fullmatch(name.rpartition("/")[2]):
            path = folder / name
            missing = [shard for shard in shard_names(path) if not path.with_name(shard).is_file()]
            if missing:
                raise WeightsError(f"{path} names {missing[0]}, which is missing; copy the whole folder")


def shard_names(path: Path) -> list[str]:
    """Return the file names of the shards that a shard index lists.

    Raises:
        WeightsError: it is no shard index, or names a file of another folder.
    """
    try:
        shards = sorted(set(json.loads(path.read_text())["weight_map"].values()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise WeightsError(f"{path} is no shard index: {error!r}") from None
    if not all(isinstance(shard, str) and Path(shard).name == shard for shard in shards):
        raise WeightsError(f"{path} names shards outside its folder; copy the whole folder again")
    return shards


def _components(index: bytes, address: str) -> Iterator[tuple[str, str]]:
    """Yield the folders that the index names with a library and a class, and the class."""
    try:
        found = json.loads(index)
    except ValueError as error:
        raise WeightsError(f"{INDEX_FILE} of {address} is not JSON: {error}") from None
    if not isinstance(found, Mapping):
        raise WeightsError(f"{INDEX_FILE} of {address} is no object")
    for name, value in found.items():
        if isinstance(value, list) and value and value[0] is not None:
            yield name, str(value[-1])


def _lacks(kind: str, files: Iterable[str], *, has_weights: bool) -> str | None:
    """Return what a component of this class needs and has not: a library would go on with an empty vocabulary."""
    names = [name.rpartition("/")[2] for name in files]
    if not names:
        return "file"
    if _TOKENIZER.search(kind):
        return None if any(fnmatchcase(name, known) for name in names for known in VOCABULARIES) else "vocabulary"
    if _WITHOUT_WEIGHTS.search(kind):
        return None
    if not has_weights:
        return "weights"
    return None if CONFIG_FILE in names else CONFIG_FILE


def _is_card(file: str) -> bool:
    # Files with two dots are of other libraries (flax_model.msgpack.index.json) or another variant.
    return file.count(".") == 1 and any(fnmatchcase(file, pattern) for pattern in CARDS)


def _weight_file(name: str) -> _WeightFile | None:
    folder, _, file = name.rpartition("/")
    found = _WEIGHTS.fullmatch(file) or _SHARD_INDEX.fullmatch(file)
    if found is None:
        return None
    parts = found.groupdict()
    is_index, is_shard = file.endswith(".json"), parts.get("shard") is not None
    plain = f"{parts['stem']}.{parts['format']}" + (".index.json" if is_index else "")
    variant = parts["variant"] or parts["old"]
    plain = name if is_shard else f"{folder}/{plain}" if folder else plain
    return _WeightFile(name, plain, parts["format"], variant, is_shard, is_index)


def _chosen(weights: list[_WeightFile], variant: str | None, where: str) -> list[_WeightFile]:
    """Return a component's weights of one format and one variant, whole or in shards."""
    wanted = [weight for weight in weights if weight.variant == variant]
    wanted = wanted or [weight for weight in weights if weight.variant is None]
    if not wanted and weights:
        only = sorted({str(weight.variant) for weight in weights})
        if len(only) > 1:
            raise WeightsError(
                f"weights folder {where} has only the variants {', '.join(only)}; name one: ...#variant={only[0]}"
            )
        wanted = weights
    safe = [weight for weight in wanted if weight.format == "safetensors"]
    chosen = safe or wanted
    if any(weight.is_shard for weight in chosen) and not any(weight.is_index for weight in chosen):
        raise WeightsError(
            f"weights folder {where} has shards without their {chosen[0].format}.index.json; copy the whole folder"
        )
    return chosen
