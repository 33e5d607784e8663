"""Exported folders on the Hugging Face hub: to it, and from it. Needs the package huggingface_hub.

Credentials are the hub library's own business (`hf auth login`); nothing here asks for or keeps any.
"""

import re
from pathlib import Path
from typing import Any

from gansmith.errors import UserError
from gansmith.weights import snapshot

NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
WANTED = (snapshot.HUB_FILE, "config.json")


def looks_like_name(text: str) -> bool:
    """Whether a path that does not exist may be `user/name`."""
    return bool(NAME.fullmatch(text)) and not text.endswith((".safetensors", ".pth"))


def fetch(name: str) -> Path:
    """The folder of `user/name`, from the hub or its cache. Raises UserError where it cannot be had."""
    hub = _library(name)
    try:
        return Path(hub.snapshot_download(repo_id=name, allow_patterns=list(WANTED)))
    except Exception as error:  # the library raises its own, requests' and OS errors
        raise UserError(
            f"{name} does not exist here, and the Hugging Face hub does not give it ({_first(error)}); give "
            "a run, a snapshot, an exported folder, or user/name of a public model."
        ) from None


def push(folder: Path, name: str, *, private: bool = False) -> str:
    """Uploads an exported folder as `user/name`, made if it is not there. Returns its address.

    Raises UserError for a name that is none, a folder that was not exported, and a refusal of the hub.
    """
    if not looks_like_name(name):
        raise UserError(f"--push {name}: a name on the hub is user/name, such as jane/flowers-128.")
    if not (folder / snapshot.HUB_FILE).is_file():
        raise UserError(f"{folder} is no exported folder (it has no {snapshot.HUB_FILE}).")
    hub = _library(name)
    try:
        api: Any = hub.HfApi()
        address = api.create_repo(repo_id=name, private=private, exist_ok=True, repo_type="model")
        api.upload_folder(folder_path=str(folder), repo_id=name, repo_type="model")
    except Exception as error:
        raise UserError(
            f"--push {name}: the hub refused ({_first(error)}); {folder} is whole and can be pushed again. "
            "Log in with `hf auth login`."
        ) from None
    return str(address)


def _library(name: str) -> Any:
    try:
        import huggingface_hub
    except ImportError:
        raise UserError(
            f"{name} does not exist here; to look on the Hugging Face hub: pip install 'gansmith[hub]'."
        ) from None
    return huggingface_hub


def _first(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__
