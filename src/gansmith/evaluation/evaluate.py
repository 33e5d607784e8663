"""From a target to scores with their protocol, in one pass over shared features.

What is decided and checked before the first image is made is an `Evaluation`; `once` is one pass with one
seed. The target is a copy of its own, latents come from named seeds, and nothing here draws from a global
random stream: what is trained meanwhile does not notice.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

import gansmith
from gansmith import hardware
from gansmith.data.progress import Progress, duration
from gansmith.data.shards import Dataset
from gansmith.errors import Stopped, UserError
from gansmith.evaluation import costs, critic, protocol
from gansmith.evaluation import metrics as table
from gansmith.evaluation.cas import USUAL, Budget
from gansmith.evaluation.fakes import Fakes, fake_features
from gansmith.evaluation.features import FeatureNetwork, default, find
from gansmith.evaluation.featureset import FeatureSet
from gansmith.evaluation.pictures import Pictures
from gansmith.evaluation.protocol import Result, Score
from gansmith.evaluation.ranks import Alone, Ranks
from gansmith.evaluation.reals import open_reference
from gansmith.evaluation.reference import chosen, reference_features
from gansmith.evaluation.subjects import Images, Reference, Subjects
from gansmith.evaluation.targets import NetworkTarget, Target, name_of, open_target
from gansmith.sampling.sampler import arithmetic

NUM = 50_000  # fakes, as the literature does


def _quiet(text: str) -> None: ...


@dataclass(frozen=True)
class Manner:
    """How an evaluation goes about it; none of this changes a number.

    ranks: processes that share the work; None is this one alone. say: takes lines for people. show: a
    progress bar on a terminal, plain lines in a log. stop: asked between images; True ends with Stopped.
    pictures: folder for neighbours and leakage, None for no pictures.
    """

    ranks: Ranks | None = None
    say: Callable[[str], None] = _quiet
    show: bool = False
    stop: Callable[[], bool] = lambda: False
    pictures: Path | None = None


@dataclass
class Evaluation:
    """What is scored against what, by which networks, in which scores: settled, checked, not yet begun."""

    target: Target
    dataset: Dataset
    networks: list[FeatureNetwork]
    metrics: list[str]
    num: int
    num_real: int  # of the data set, drawn evenly where it has more
    split: str
    labels: str  # rule by which the classes of fakes follow the reference
    ranks: Ranks
    manner: Manner
    held_out: Dataset | None = None
    discriminator: nn.Module | None = None
    cas: Budget = USUAL
    references: dict[int, Reference] = field(default_factory=dict)

    def run(self, seed: int = 0, repeats: int = 1) -> list[Result]:
        """All scores, on every rank. Raises Stopped where asked to stop, UserError for broken images."""
        with torch.random.fork_rng(devices=[]), hardware.full_fp32():
            for line in self._on_main(lambda: [costs.expected(self, repeats)]):
                self.manner.say(line)
            passes = [self.once(seed + repeat) for repeat in range(repeats)]
        return self._on_main(lambda: protocol.results(passes, self.protocol(seed, repeats)))

    def once(self, seed: int) -> list[Score]:
        """One pass: every image is made once, every network sees it once, every score uses what they saw."""
        references = self._on_main(self._references, shared=False)
        fakes = fake_features(
            self.target,
            self.networks,
            self.num,
            seed,
            self.ranks,
            classes=self.dataset.classes,
            stop=self.manner.stop,
            show=self.manner.show,
            keep="cas" in self.metrics,
        )

        def scores() -> list[Score]:
            images = self._images(seed, fakes)
            return [
                score
                for network, reference, fake in zip(self.networks, references, fakes.features)
                for score in self._scores(Subjects(network, reference, fake, seed, images))
            ]

        return self._on_main(scores)

    def _scores(self, subjects: Subjects) -> list[Score]:
        scores = []
        for name in self.metrics:
            if table.METRICS[name].once and subjects.network is not self.networks[0]:
                continue
            started = time.monotonic()
            scores += table.METRICS[name].compute(subjects)
            if (took := time.monotonic() - started) > 10:
                self.manner.say(f"{name}: {duration(took)}")
        return scores

    def _references(self) -> list[Reference]:
        for index, network in enumerate(self.networks):
            if index not in self.references:
                features = self._known(self.dataset, network, self.num_real)
                new = partial(self._new_reals, network)
                self.references[index] = Reference(features, network.device, new)
        return [self.references[index] for index in range(len(self.networks))]

    def _new_reals(self, network: FeatureNetwork) -> FeatureSet | None:
        return None if self.held_out is None else self._known(self.held_out, network, len(self.held_out))

    def _known(self, dataset: Dataset, network: FeatureNetwork, num: int) -> FeatureSet:
        progress = Progress("reals", num, shown=self.manner.show)

        def advanced(done: int, total: int) -> None:
            progress.advance(done - progress.count)
            if self.manner.stop():
                raise Stopped("stopped; the reals seen so far are kept, the same command goes on")

        try:
            return reference_features(dataset, network, num=num, progress=advanced)
        finally:
            progress.close()

    def _images(self, seed: int, fakes: Fakes) -> Images:
        folder, pictures = self.manner.pictures, None
        if folder is not None:
            stem = self.target.path.stem if self.target.run is None else name_of(self.target.file)
            rows = chosen(self.dataset, self.num_real)
            pictures = Pictures(folder, stem, self.target, self.dataset, rows, seed, self.num)
        small = None if fakes.small is None else torch.from_numpy(fakes.small)
        return Images(
            self.target,
            self.dataset,
            self.held_out,
            self.discriminator,
            pictures,
            fakes.digests,
            small,
            self.cas,
        )

    def _on_main(self, work: Callable[[], list], shared: bool = True) -> list:
        """What rank 0 found, on all ranks (or on rank 0 alone); what stopped it stops all."""
        found, trouble = [], None
        if self.ranks.is_main:
            try:
                found = work()
            except Exception as error:
                trouble = error
        if trouble := self.ranks.share(trouble):
            raise trouble
        return self.ranks.share(found) if shared else found

    def retargeted(self, file: Path) -> "Evaluation":
        """The same for another snapshot of the run: networks and references are shared."""
        old = self.target
        assert isinstance(old, NetworkTarget)
        with hardware.full_fp32():
            target = old.of_another(file)
        if target.shape != old.shape:
            raise UserError(f"{file} draws images of another size than {old.file}; score it by itself.")
        return replace(self, target=target, labels=target.follow(self.dataset.classes))

    def wanted(self) -> set[tuple[str, str]]:
        """(metric, scope) of every result that a run of this will have."""
        common = {"version": protocol.VERSION, **self.protocol(0, 1)}
        found = set()
        for index, network in enumerate(self.networks):
            for name in self.metrics:
                if not (once := table.METRICS[name].once) or index == 0:
                    features = None if once else network.describe()
                    scope = protocol.scope(common | {"features": features})
                    found |= {(product, scope) for product in table.METRICS[name].yields}
        return found

    def protocol(self, seed: int, repeats: int) -> dict[str, Any]:
        """All that decided the numbers and is the same for all scores of one feature network."""
        return {
            "n_real": self.num_real,
            "n_fake": self.num,
            "split": self.split,
            "reference": self.dataset.content_hash,
            "labels": self.labels,
            "seed": seed,
            "repeats": repeats,
            "code_version": gansmith.__version__,
            **self.target.describe(),
        }


def prepare(
    target: str | Path,
    data: str | Path | Dataset | None = None,
    *,
    metrics: Sequence[str] = (),
    features: str | Sequence[FeatureNetwork] = "auto",
    weights: str | Path | None = None,
    resizer: str | None = None,
    num: int | None = None,
    num_real: int | None = None,
    truncation: float | None = None,
    truncation_kind: str = "resample",
    split: str = "train",
    held_out: str | Path | None = None,
    cas: Budget = USUAL,
    device: str | torch.device | None = None,
    precision: str = "fp32",
    manner: Manner | None = None,
) -> Evaluation:
    """Opens and checks everything; arguments as of `evaluate`. Raises UserError for whatever cannot work."""
    manner = manner or Manner()
    if num_real is not None and num_real < 2:
        raise UserError(f"--num-real {num_real}: give at least 2, or leave it out for all.")
    table.find(metrics)  # a wrong name is told before anything is opened
    device = manner.ranks.device if manner.ranks else hardware.choose_device(device)
    ranks = manner.ranks or Alone(device)
    if isinstance(features, str):
        features = open_networks(features, weights=weights, resizer=resizer, device=device)
    with hardware.full_fp32():
        opened = open_target(
            target,
            truncation=truncation,
            kind=truncation_kind,
            device=device,
            dtype=arithmetic(precision, device),
        )
    data = str(data) if isinstance(data, Path) else data
    dataset = open_reference(data, opened, aloud=ranks.is_main)
    evaluation = Evaluation(
        target=opened,
        dataset=dataset,
        networks=list(features),
        metrics=[],
        num=_number(num, opened, manner),
        num_real=len(chosen(dataset, num_real)),
        split=split,
        labels=opened.follow(dataset.classes),
        ranks=ranks,
        manner=manner,
        cas=cas,
    )
    if held_out is not None:
        evaluation.held_out = open_reference(str(held_out), opened, aloud=ranks.is_main)
        if evaluation.held_out.content_hash == dataset.content_hash:
            raise UserError(
                f"--held-out {held_out} holds the very images of --data; give others of the kind."
            )
        if isinstance(opened, NetworkTarget):
            evaluation.discriminator = critic.open_discriminator(opened.file)
    evaluation.metrics = _possible(metrics, evaluation)
    if evaluation.held_out is not None:
        _check_classes(evaluation, evaluation.held_out)
    return evaluation


def open_networks(
    specs: str,
    *,
    weights: str | Path | None = None,
    resizer: str | None = None,
    device: str | torch.device | None = None,
) -> list[FeatureNetwork]:
    """The networks of `auto`, `inception`, `pixels,effnet-lite0`, …; arguments as of `features.find`."""
    names = [default() if name.strip() == "auto" else name.strip() for name in specs.split(",")]
    if len(names) > 1 and weights is not None:
        raise UserError(
            f"--weights {weights}: of which network, with --features {specs}? Name one at a time."
        )
    return [
        find(name, weights=weights, resizer=resizer if name == "inception" else None, device=device)
        if len(names) > 1
        else find(name, weights=weights, resizer=resizer, device=device)
        for name in dict.fromkeys(names)
    ]


def evaluate(
    target: str | Path,
    data: str | Path | Dataset | None = None,
    *,
    seed: int = 0,
    repeats: int = 1,
    **options: Any,
) -> list[Result]:
    """Scores a run (its newest snapshot), a snapshot, a checkpoint, or images that are there already.

    target: run, .safetensors, checkpoint folder, prepared set, image folder, zip, or .npz with `images`
    uint8 (n, h, w, c) and maybe `labels`. data: the real images, any source of docs/data.md; None is what the
    run was trained on. repeats: passes with seeds seed, seed + 1, …, whose mean and standard deviation are
    the result. options: metrics (names; none is the usual ones), features (`auto`, `inception`,
    `effnet-lite0`, …; several with commas), weights and resizer (of the feature network), num (fakes; None
    is 50,000, or all images there are), num_real (None is all), truncation and truncation_kind, split (what
    the reals are called), held_out (reals that were not trained on), cas (its `Budget`), device, precision
    (of the generator), manner (ranks, progress, pictures).

    Leaves no trace in the target. Equal calls give equal numbers, on any number of ranks. Raises UserError
    for anything missing or unfit, before the first image is made where it can be known then.
    """
    if repeats < 1:
        raise UserError(f"--repeats {repeats} must be at least 1.")
    return prepare(target, data, **options).run(seed, repeats)


def _number(num: int | None, target: Target, manner: Manner) -> int:
    there = target.available
    if num is None:
        return there or NUM
    if num < 2:
        raise UserError(f"--num {num}: scores compare sets of images; give at least 2, better {NUM:,}.")
    if there is not None and num > there:
        raise UserError(f"--num {num:,}: {target.path} holds {there:,} images; give at most that many.")
    return num


def _check_classes(it: Evaluation, held_out: Dataset) -> None:
    """Raises UserError where held-out reals of other classes would be taken for what they are not."""
    if "d-gap" in it.metrics and it.discriminator is not None:
        for reals in (it.dataset, held_out):
            critic.labels_for(it.discriminator, reals, it.target.classes)
    names = [[info.name for info in reals.classes] for reals in (it.dataset, held_out)]
    if "cas" in it.metrics and names[0] != names[1]:
        raise UserError(
            f"--held-out {held_out.path} has other classes than --data; cas needs the same ones: leave it "
            "out of --metrics."
        )


def _possible(names: Sequence[str], it: Evaluation) -> list[str]:
    """The metrics to compute: those named, which must be possible; `all` or, for none, the usual ones that
    are.
    """
    everything = "all" in names
    wanted = [] if everything else table.find(list(names))
    have = {
        "logits": all(network.num_logits for network in it.networks),
        "labels": it.target.labelled and sum(info.count > 0 for info in it.dataset.classes) > 1,
        "held_out": it.held_out is not None,
        "discriminator": it.discriminator is not None,
    }
    kinds = {name for name, present in have.items() if present}
    asked = wanted or list(table.METRICS if everything else table.usual())
    reasons = {name: table.lacking(name, kinds, it.num, it.num_real) for name in asked}
    if everything:
        for name, why in reasons.items():
            if why:
                it.manner.say(f"left out: {name}: {why}")
    if wanted and (refused := {name: why for name, why in reasons.items() if why}):
        raise UserError("\n".join(f"--metrics {name}: {why}." for name, why in refused.items()))
    return [name for name, why in reasons.items() if not why]
