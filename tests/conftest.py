"""What every test may rely on: one thread, fixed seeds, no network, its own cache, the reference files."""

import os

# Before torch and the Hugging Face libraries are imported, and inherited by the programs that tests start.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_DATASETS_OFFLINE"] = "1"

from pathlib import Path

import pytest
import torch

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Prepared data sets go to a folder of this test session, never to the cache of the person testing."""
    os.environ["GANSMITH_CACHE"] = str(tmp_path_factory.mktemp("gansmith-cache"))
    os.environ["HF_HOME"] = str(tmp_path_factory.mktemp("huggingface"))


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """A test's random numbers do not depend on the tests before it."""
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of the checkout: README, docs and benchmarks lie there."""
    return REPOSITORY


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    """The folder `shared` beside the repository: golden files of other programs, CIFAR-10 as JPEG."""
    folder = REPOSITORY.parent / "shared"
    if not folder.is_dir():
        pytest.skip(f"needs the reference files in {folder}, which are not part of the repository")
    return folder
