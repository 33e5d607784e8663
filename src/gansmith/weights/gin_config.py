"""Reads the configuration that compare_gan leaves beside its checkpoints: lines of `scope.name = value`.

Only reads text: nothing that such a file may import or call is looked at.
"""

from dataclasses import dataclass, field
from pathlib import Path

from gansmith.errors import UserError


@dataclass
class Gin:
    """Settings of a training run as its configuration file lists them: `name = value`, values as text."""

    file: Path | None = None
    values: dict[str, str] = field(default_factory=dict)

    @classmethod
    def beside(cls, prefix: Path) -> "Gin":
        """The newest operative configuration in a checkpoint's folder, or no settings."""
        files = sorted(prefix.parent.glob("operative_config*.gin"))
        if not files:
            return cls()
        lines = files[-1].read_text(encoding="utf-8", errors="replace").splitlines()
        pairs = (line.split("#")[0].partition("=") for line in lines if "=" in line.split("#")[0])
        return cls(files[-1], {key.strip(): value.strip().strip("'\"") for key, _, value in pairs})

    def get(self, name: str, default: str) -> str:
        """A setting, whatever module stands before its name."""
        suffix = f".{name}"
        found = [value for key, value in self.values.items() if key == name or key.endswith(suffix)]
        return found[-1] if found else default

    def true(self, name: str) -> bool:
        """Whether a setting is there and True."""
        return self.get(name, "False") == "True"

    def number(self, name: str, default: float) -> float:
        """A setting that is a number. Raises UserError where it is none."""
        text = self.get(name, str(default))
        try:
            return float(text)
        except ValueError:
            raise UserError(f"{self.file}: {name} is {text!r}, not a number.") from None
