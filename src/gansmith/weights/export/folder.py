"""A folder that users of the Hugging Face hub know: `model.safetensors` (a snapshot), `config.json`,
`README.md` (the model card) and `samples.png`. `gansmith.load` opens it, or its name on the hub.
"""

import json
import shutil
from pathlib import Path
from typing import Any

from gansmith import files
from gansmith.errors import UserError
from gansmith.models.biggan import Discriminator, Generator
from gansmith.weights import snapshot
from gansmith.weights.export.card import Card


def write(
    dest: Path,
    source: Path,
    G: Generator,
    D: Discriminator | None,
    info: dict[str, Any],
    card: Card,
    samples: Any,
) -> Path:
    """Writes the folder whole or not at all. samples: a Pillow image. Raises UserError if `dest` exists.

    The snapshot is copied byte by byte where it is what was asked for (`info` unchanged, D kept or left out);
    then the file's SHA-256 is the source's.
    """
    if dest.exists():
        raise UserError(f"{dest} exists and is never overwritten; give another name or delete it.")
    dest.parent.mkdir(parents=True, exist_ok=True)
    with files.replacing_folder(dest) as temporary:
        model = temporary / snapshot.HUB_FILE
        known = snapshot.describe(source)
        if info["statistics"] == known["statistics"] and (known["discriminator"] is None) == (D is None):
            shutil.copyfile(source, model)
        else:
            snapshot.save(model, G, D=D, info=info)
        described = config(snapshot.describe(model), card.source_sha256)
        (temporary / "config.json").write_text(json.dumps(described, indent=1, ensure_ascii=False))
        (temporary / "README.md").write_text(card.text(described))
        samples.save(temporary / "samples.png", format="PNG")
    return dest


def config(info: dict[str, Any], source_sha256: str) -> dict[str, Any]:
    """config.json: what the network is. The snapshot says it too and is what gansmith reads."""
    names = {entry["id"]: entry["name"] for entry in info["classes"]}
    classes = info["generator"]["num_classes"]
    return {
        "model_type": info["generator"]["family"],
        "library_name": "gansmith",
        "gansmith_version": info["gansmith_version"],
        "snapshot_version": info["version"],
        "generator": info["generator"],
        "discriminator": info["discriminator"],
        "latent": info["latent"],
        "images_seen": info["images_seen"],
        "ema": info["ema"],
        "statistics": info["statistics"],
        "id2label": {str(i): names.get(i, str(i)) for i in range(classes)},
        "sha256": info["sha256"],
        "snapshot_sha256": source_sha256,
    }
