"""Where checkpoints lie: a file, a folder of ``save_pretrained``, a pipeline, a repository of the Hugging Face hub."""
import hashlib
import json
import os
import pathlib
import re
from typing import Any, NamedTuple

from indigo_jax.convert import checkpoint
from indigo_jax.convert.checkpoint import Checkpoint

HUB = "hf:"
CLASSES = {"UNet2DModel": "diffusers-unet", "UNet2DConditionModel": "latent-unet", "AutoencoderKL": "vae",
           "AutoencoderTiny": "taesd"}  # of diffusers: the kind of converter
_FILES = ("diffusion_pytorch_model.safetensors", "model.safetensors", "diffusion_pytorch_model.fp16.safetensors",
          "model.fp16.safetensors", "diffusion_pytorch_model.bin", "pytorch_model.bin")
_INDEX = ".index.json"
_PATTERNS = ["*.json", "*.safetensors", "*.bin", "*.pt", "*.pth", "*.ckpt"]
_LARGEST_JSON = 16 * 2**20


class Source(NamedTuple):
    """Something to convert, on this machine.

    Attributes:
        path: a file or a folder.
        name: what it was called.
        revision: of a repository, the commit.
    """

    path: pathlib.Path
    name: str
    revision: str | None = None


class Part(NamedTuple):
    """One network of a source.

    Attributes:
        name: what it is called within its pipeline; "" where it is alone.
        kind: of converter, where its class tells; else None.
        files: with its parameters.
        config: its config.json, or {}.
        scheduler: the scheduler's config of the same pipeline, or None.
        text_encoder: that of the same pipeline, or None; its config has the entry "pad", the word of the padding.
        text_encoder_2: of Stable Diffusion XL the other one, which also embeds a text as a whole.
        pipeline: the pipeline's model_index.json, or {}.
        others: tensors of other networks in the same file, filled when it is read.
    """

    name: str
    kind: str | None
    files: tuple[pathlib.Path, ...]
    config: dict[str, Any]
    scheduler: dict[str, Any] | None = None
    text_encoder: Any = None
    text_encoder_2: Any = None
    pipeline: dict[str, Any] = {}
    others: dict[str, Any] = {}

    def read(self, *, raw: bool = False) -> Checkpoint:
        """Its parameters; see :func:`checkpoint.read`."""
        prefixes = [""] * len(self.files)
        if self.kind == "taesd" and len(self.files) == 2 and not self.config:  # the original's two halves
            prefixes = [f"{next(half for half in _HALVES if half in file.name)}." for file in self.files]
        read = [checkpoint.read(file, raw=raw) for file in self.files]
        tensors = {prefix + name: value for prefix, one in zip(prefixes, read) for name, value in one.tensors.items()}
        return Checkpoint(tensors, tuple(dict.fromkeys(note for one in read for note in one.notes)))

    def sha256(self) -> dict[str, str]:
        """Of each file by its name."""
        sums = {}
        for file in self.files:
            with open(file, "rb") as stream:
                sums[file.name] = hashlib.file_digest(stream, "sha256").hexdigest()
        return sums


_HALVES = ("encoder", "decoder")


# ---------------------------------------------------------------------------------------------------- what is there

def resolve(text: str, *, revision: str | None = None, offline: bool = False) -> Source:
    """The file or folder that a SOURCE means.

    Args:
        text: a path, or ``hf:OWNER/NAME``, which the hub's client fetches (extra ``hub``) unless it is in its cache.
        revision: of a repository: a commit, a branch or a tag; default: the main branch.
        offline: look into the cache alone; so it is too with ``HF_HUB_OFFLINE=1``.

    Errors:
        ValueError, one line, where there is none.
    """
    if text.startswith(HUB):
        alone = os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "TRUE", "YES")
        return _from_hub(text, revision, offline or alone)
    if revision is not None:
        raise ValueError(f"{text}: a revision is for {HUB}OWNER/NAME; leave it out")
    path = pathlib.Path(text)
    if not path.exists():
        raise ValueError(f"{text}: no such file or folder; check the path, or give {HUB}OWNER/NAME for a repository of "
                         "the hub")
    return Source(path, path.name)


def _from_hub(text, revision, offline):
    match = re.fullmatch(rf"{HUB}([\w.-]+/[\w.-]+)", text)
    if not match or ".." in text:
        raise ValueError(f"{text}: a repository is {HUB}OWNER/NAME")
    name, wanted = match[1], revision or "main"
    if not re.fullmatch(r"[\w./-]+", wanted) or ".." in wanted:
        raise ValueError(f"{text}: the revision {wanted!r} is not a commit, a branch or a tag")
    cached = _cached(name, wanted)
    pinned = re.fullmatch(r"[0-9a-f]{40}", wanted)
    is_whole = cached is not None and not any((cached.parents[1] / "blobs").glob("*.incomplete"))
    if is_whole and (offline or pinned):
        return Source(cached, text, cached.name)
    if offline and cached is not None:
        raise ValueError(f"{text}: only a part of it is in the cache of the hub ({_hub_cache()}); fetch it once "
                         "without --offline")
    if offline:
        raise ValueError(f"{text}: not in the cache of the hub at revision {wanted} ({_hub_cache()}), and the network "
                         "is not to be used; fetch it once without --offline")
    try:
        import huggingface_hub
    except ImportError as error:
        raise ValueError(f"{text}: fetching from the hub needs huggingface_hub; install indigo-jax[hub], or give a "
                         "folder") from error
    try:
        folder = huggingface_hub.snapshot_download(name, revision=wanted, allow_patterns=_wanted_files(
            huggingface_hub, name, wanted))
    except Exception as error:  # the client's errors are of many kinds
        reason = " ".join(str(error).split())[:160] or type(error).__name__
        raise ValueError(f"{text}: cannot be fetched ({type(error).__name__}: {reason}); check the name, the revision "
                         f"{wanted} and the network, or give a folder") from error
    return Source(pathlib.Path(folder), text, pathlib.Path(folder).name)


def _wanted_files(client, name, revision):
    """All small files, and of parameters that are there twice those in safetensors."""
    names = [each.rfilename for each in client.HfApi().model_info(name, revision=revision).siblings]  # asks only once
    safe = {pathlib.PurePosixPath(each).parent for each in names if each.endswith(".safetensors")}
    return [each for each in names if any(pathlib.PurePosixPath(each).match(pattern) for pattern in _PATTERNS)
            and not (each.endswith((".bin", ".pt", ".pth", ".ckpt")) and pathlib.PurePosixPath(each).parent in safe)]


def _hub_cache():
    home = os.environ.get("HF_HOME") or pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
                                                     ) / "huggingface"
    return pathlib.Path(os.environ.get("HF_HUB_CACHE") or pathlib.Path(home) / "hub").expanduser()


def _cached(name, revision):
    """The snapshot of a repository in the hub's cache, or None."""
    folder = _hub_cache() / f"models--{name.replace('/', '--')}"
    reference = folder / "refs" / revision
    if reference.is_file():
        revision = reference.read_text(encoding="utf-8", errors="replace").strip()
    snapshot = folder / "snapshots" / revision
    return snapshot if re.fullmatch(r"[0-9a-f]{4,64}", revision) and snapshot.is_dir() else None


# ---------------------------------------------------------------------------------------------------- what is in it

def is_training_run(path: pathlib.Path) -> bool:
    """Whether a folder is the workdir of one of our training runs."""
    return path.is_dir() and "architecture" in (_json(path / "config.json") or {})


def parts(source: Source) -> list[Part]:
    """The networks in a source that a converter may know, nothing of them read yet.

    Errors:
        ValueError where a folder holds none, or more than one file and nothing that says which.
    """
    path = source.path
    if path.is_file():
        beside = _json(path.with_name("config.json")) if path.name in _FILES else None
        return [_part("", (path,), beside or {}, _scheduler(path.parent) if beside else None)]
    index = _json(path / "model_index.json")
    if index is not None:
        found = [part for name, entry in index.items() if isinstance(entry, list) and len(entry) == 2
                 and entry[1] in CLASSES for part in [_of_folder(path, name, entry[1])] if part]
        if found:
            texts = {name: _text_encoder(path, index, name, kind) for name, kind in _TEXT_ENCODERS.items()}
            return [part._replace(**texts, pipeline=index) for part in found]
        classes = [str(entry[1]) for entry in index.values() if isinstance(entry, list) and len(entry) == 2]
        raise ValueError(f"{source.name}: a pipeline of {', '.join(classes) or 'nothing'}; of these classes one can be "
                         f"converted: {', '.join(CLASSES)}")
    files = _weights_files(path)
    if files:
        return [_part("", files, _json(path / "config.json") or {}, _scheduler(path))]
    loose = [file for file in sorted(path.iterdir()) if file.suffix in checkpoint.SUFFIXES and file.is_file()]
    halves = [file for half in _HALVES for file in loose if half in file.name]
    if len(halves) == 2 and len(loose) == 2:
        return [Part("", "taesd", tuple(halves), {})]
    if not loose:
        raise ValueError(f"{source.name}: a folder without a checkpoint ({', '.join(checkpoint.SUFFIXES)}), a "
                         "model_index.json or the config.json of a training run")
    if len(loose) > 1:
        names = ", ".join(file.name for file in loose[:4]) + (", ..." if len(loose) > 4 else "")
        raise ValueError(f"{source.name}: a folder with the checkpoints {names}; give one of them")
    return [_part("", (loose[0],), _json(path / "config.json") or {}, _scheduler(path))]


def _of_folder(path, name, class_name):
    folder = path / name if (path / name).is_dir() else path
    files, config = _weights_files(folder), _json(folder / "config.json")
    if not files or config is None or config.get("_class_name", class_name) != class_name:
        return None
    return _part(name, files, {"_class_name": class_name, **config}, _scheduler(path))


_TEXT_ENCODERS = {"text_encoder": "CLIPTextModel", "text_encoder_2": "CLIPTextModelWithProjection"}


def _text_encoder(path, index, name, class_name):
    """A text encoder of a pipeline, by the word with which its tokenizer pads."""
    if (index.get(name) or [None, None])[1] != class_name:
        return None
    files, config = _weights_files(path / name), _json(path / name / "config.json")
    if not files or config is None:
        return None
    tokenizer = name.replace("text_encoder", "tokenizer")
    pad = (_json(path / tokenizer / "special_tokens_map.json") or {}).get("pad_token")
    pad = pad.get("content") if isinstance(pad, dict) else pad
    if pad == "!":  # the first word of CLIP's vocabulary, of Stable Diffusion 2
        config = {**config, "pad": 0}
    return Part(name, None, files, config)


def _part(name, files, config, scheduler):
    return Part(name, CLASSES.get(config.get("_class_name")), tuple(files), config, scheduler)


def _weights_files(folder):
    """The files of the parameters in a folder of ``save_pretrained``, of more than one precision the fullest."""
    for name in _FILES:
        if (folder / name).is_file():
            return (folder / name,)
        index = _json(folder / f"{name}{_INDEX}")
        shards = sorted(set((index or {}).get("weight_map", {}).values()))
        if shards and all(re.fullmatch(r"[\w.-]+", str(shard)) for shard in shards):
            missing = [shard for shard in shards if not (folder / shard).is_file()]
            if missing:
                raise ValueError(f"{folder.name}: {missing[0]} is missing, one of {len(shards)} pieces")
            return tuple(folder / shard for shard in shards)
    return ()


def _scheduler(folder):
    for place in (folder / "scheduler", folder, folder.parent / "scheduler"):
        found = _json(place / "scheduler_config.json")
        if found is not None:
            return found
    return None


def _json(path):
    if not path.is_file() or path.stat().st_size > _LARGEST_JSON:
        return None
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: not JSON ({error})") from error
    return found if isinstance(found, dict) else None
