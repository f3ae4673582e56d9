"""Training speed on one GPU, in one call of at most ten minutes, without network.

Needs this folder and `cptlib` beside it, and Python with torch and transformers; for the comparison with `Trainer` also
accelerate. What fails or has no time left is named and left out, and the rest is written: the file is replaced after
every measurement.

    python benchmarks/gpu.py [--minutes 9] [--out FILE]
    python benchmarks/gpu.py --tiny                       # on any machine, to see that it runs to its end

The text is synthetic (invented words, drawn by Zipf's law): enough to measure throughput, and no loss means anything.
Utilisation (MFU) is the arithmetic that a model needs over what the device could do meanwhile: by the maker's data
sheet for dense bf16 where the card is known, and by a large bf16 matrix product measured here.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import numpy as np
import torch

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE)]  # a machine that was handed the folder has not installed the package

import train as benchmark  # noqa: E402

from cptlib.data import split as splitting  # noqa: E402
from cptlib.data.corpora import local_corpus  # noqa: E402
from cptlib.data.mixture import Mixture  # noqa: E402
from cptlib.data.tokens import TokenizerSpec  # noqa: E402
from cptlib.files import write_text  # noqa: E402
from cptlib.runs.cost import PEAKS, ladder_model  # noqa: E402
from cptlib.runs.models import build, count_parameters, training_flops_per_token  # noqa: E402
from cptlib.runs.objective import Objective  # noqa: E402
from cptlib.runs.spec import Evaluation, ModelSpec, RunSpec, Schedule  # noqa: E402

OUT = HERE / "results" / "gpu.json"
DATA = "synthetic tokens: throughput only, no loss means anything"
CORPUS = "synthetic"
HELD_OUT = 8  # documents on the validation side
SMALL = 20e6  # parameters below which a step is so short that launching its kernels counts


@dataclass(frozen=True)
class Size:
    """A model, and how it is trained."""

    model: ModelSpec
    vocab_size: int
    batch_tokens: int
    steps: int
    repeats: int

    @property
    def parameters(self) -> int:
        return count_parameters(self.model, self.vocab_size).total

    @property
    def flops(self) -> float:
        """Per token."""
        return training_flops_per_token(self.model, self.vocab_size)

    def run(self, seed: int) -> RunSpec:
        """A run of this size on the synthetic text."""
        return RunSpec(
            model=self.model,
            tokenizer=TokenizerSpec.bpe(self.vocab_size, {CORPUS: 10_000_000}),
            mixture=Mixture.of({CORPUS: 1}),
            schedule=Schedule("constant", 1e-3, warmup=0.1),
            tokens=self.steps * self.batch_tokens,
            batch_tokens=self.batch_tokens,
            seed=seed,
            evaluation=Evaluation((CORPUS,), 4 * self.model.context),
            precision="bf16",
        )


@dataclass(frozen=True)
class Plan:
    """What is measured: models, the largest first, on how much text, and how."""

    sizes: tuple[Size, ...]
    stack: int
    characters: int
    words: int
    square: int
    compilers: tuple[str, ...]
    variants: tuple[str, ...]

    @classmethod
    def of(cls, tiny: bool) -> Plan:
        """The plan for a GPU, or one of seconds for any machine (nothing is compiled there: it takes too long)."""
        if tiny:
            one = Size(ModelSpec(16, 32), 300, 128, benchmark.SKIPPED + 4, 1)
            return cls((one,), 2, 60_000, 300, 128, ("eager",), ("bf16",))
        small = tuple(Size(ladder_model(n, 1024, 128), 1024, 8192, 200, 3) for n in (1e6, 3e6, 10e6))
        large = Size(ladder_model(120e6, 32_768, 1024), 32_768, 16 * 1024, 60, 3)
        return cls((large, *small), 8, 12_000_000, 60_000, 8192, ("inductor",), ("bf16", "bf16 compiled"))


class Report:
    """What is measured so far, on the screen and in the file."""

    def __init__(self, out: Path | None, seconds: float, device: str, tiny: bool) -> None:
        self.out, self.begun, self.seconds = out, time.perf_counter(), seconds
        versions = {"python": platform.python_version(), "torch": torch.__version__, **_versions()}
        self.body: dict = {"device": device, "tiny": tiny, "data": DATA, "versions": versions}
        self.body |= {"peaks": {}, "lines": [], "left_out": []}

    def add(self, measure: Callable[[], dict], name: str) -> None:
        """Take one measurement; what fails, or comes too late, is named in the file."""
        begun = time.perf_counter()
        if begun - self.begun > self.seconds:
            self._leave_out(name, "no time left")
            return
        try:
            line = measure()
        except Exception as error:  # noqa: BLE001 - one variant that a machine cannot do must not cost the others
            self._leave_out(name, f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}")
            return
        finally:
            gc.collect()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
        self.body["lines"].append({"metric": name, **line})
        text = f"{name}: {line['ours']:,.0f}"
        if line.get("peer"):
            text += f", {line['peer_variant']} {line['peer']:,.0f}, ratio {line['ratio']:.2f}"
            text += f" ({line['lo']:.2f} to {line['hi']:.2f})"
        shares = [f"{line[key]:.1%} {of}" for key, of in MFU.items() if line.get(key)]
        text += f"; MFU {', '.join(shares)}" if shares else ""
        print(f"{text}  [{time.perf_counter() - begun:.0f} s]", flush=True)
        self.write()

    def _leave_out(self, name: str, why: str) -> None:
        self.body["left_out"].append({"metric": name, "why": why})
        print(f"{name}: left out, {why}", flush=True)
        self.write()

    def utilisation(self, speed: float, size: Size) -> dict:
        """MFU by the data sheet, where the card is known, and by the measured matrix product."""
        peaks = {name: self.body["peaks"].get(kind) for name, kind in MFU_OF.items()}
        return {name: speed * size.flops / peak for name, peak in peaks.items() if peak}

    def write(self) -> None:
        """Replace the file."""
        self.body["seconds"] = round(time.perf_counter() - self.begun, 1)
        if self.out is not None:
            write_text(self.out, json.dumps(self.body, indent=1) + "\n")


NOTHING_FUSED = ("eager",)
MFU = {"mfu": "of the data sheet", "mfu_measured": "of the measured product"}
MFU_OF = {"mfu": "data_sheet", "mfu_measured": "bf16"}


def _versions() -> dict[str, str]:
    import transformers

    return {"transformers": transformers.__version__, "cuda": str(torch.version.cuda)}


# --- data -----------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def synthetic(plan: Plan) -> Iterator[None]:
    """A cache of its own, and in it a corpus of invented words."""
    before = os.environ.get("CPTLIB_CACHE")
    with tempfile.TemporaryDirectory(prefix="cptlib-gpu-") as folder:
        os.environ["CPTLIB_CACHE"] = folder
        try:
            path, text = Path(folder) / "text.txt", _text(plan)
            path.write_text(text, encoding="utf-8")
            local_corpus(path, CORPUS, separator="\n", title=DATA)
            # cut by place: there are no near-copies, and the search for them needs scipy
            every = tuple(range(text.count("\n") + 1))
            cut = splitting.Split(every[HELD_OUT:], every[:HELD_OUT], every)
            with mock.patch.object(splitting, "split", lambda *_: cut):
                yield
        finally:
            os.environ.pop("CPTLIB_CACHE")
            if before is not None:
                os.environ["CPTLIB_CACHE"] = before


def _text(plan: Plan) -> str:
    generator = np.random.default_rng(0)
    letters = np.array(list("abcdefghijklmnopqrstuvwxyz"))
    words = ["".join(generator.choice(letters, n)) for n in generator.integers(2, 10, plan.words)]
    share = 1 / np.arange(1, plan.words + 1)
    drawn = generator.choice(plan.words, plan.characters // 7, p=share / share.sum())
    return "\n".join(" ".join(words[i] for i in drawn[k : k + 400]) for k in range(0, len(drawn), 400))


# --- a loop with nothing around it: what attention, compiling and graphs are worth ------------------------------------


def product(size: int, dtype: torch.dtype, device: str) -> float:
    """FLOP/s of a square matrix product, the best of five."""
    a = torch.randn(size, size, device=device, dtype=dtype)
    seconds = min(timed(lambda: a @ a, 8, 2, device) for _ in range(5))
    return 2 * size**3 / seconds


def timed(step: Callable[[], object], steps: int, warmup: int, device: str) -> float:
    """Seconds of a step, after some that are not timed."""
    for _ in range(warmup):
        step()
    _synchronize(device)
    begun = time.perf_counter()
    for _ in range(steps):
        step()
    _synchronize(device)
    return (time.perf_counter() - begun) / steps


def _synchronize(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def bare(size: Size, device: str, attention: str, compiler: str | None = None, graph: bool = False) -> float:
    """Tokens a second of forward, backward, clipping and AdamW on one batch that never changes."""
    model = build(size.model, size.vocab_size, 0).to(device).train()
    model.set_attn_implementation(attention)
    # capturable keeps the step count on the GPU, where a graph can raise it
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True, capturable=graph)
    generator = torch.Generator(device).manual_seed(0)
    shape = (size.batch_tokens // size.model.context, size.model.context + 1)
    window = torch.randint(size.vocab_size, shape, generator=generator, device=device)
    x_BT, y_BT = window[:, :-1].contiguous(), window[:, 1:].contiguous()
    loss_sum = Objective("bf16").loss_sum
    if compiler is not None:
        loss_sum = torch.compile(loss_sum, backend=compiler)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        (loss_sum(model, x_BT, y_BT) / y_BT.numel()).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

    return size.batch_tokens / timed(graphed(step) if graph else step, max(4, size.steps // 2), 4, device)


def graphed(step: Callable[[], None]) -> Callable[[], None]:
    """The whole step as one CUDA graph, recorded after three steps on a stream of its own."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    return graph.replay


def bare_lines(report: Report, size: Size, plan: Plan, device: str) -> None:
    """Each way of computing the same step, against attention and loss that nothing fuses."""
    name = f"tokens/s of a bare loop, {size.parameters / 1e6:.3g} M parameters"
    speeds: dict[tuple, float] = {}

    def line(*ways, **more) -> dict:
        speed = speeds[ways] = bare(size, device, *ways, **more)
        peer = None if ways == NOTHING_FUSED else speeds.get(NOTHING_FUSED)  # absent where it did not fit
        ratio = speed / peer if peer else None
        found = {"ours": speed, "peer": peer, "ratio": ratio, "lo": ratio, "hi": ratio}
        found |= {"peer_variant": "nothing fused", "repeats": 1}
        return found | _about(size) | report.utilisation(speed, size)

    report.add(lambda: line(*NOTHING_FUSED), f"{name}, nothing fused")
    report.add(lambda: line("sdpa"), f"{name}, fused attention")
    for compiler in plan.compilers:
        report.add(lambda c=compiler: line("sdpa", c), f"{name}, fused attention, compiled ({compiler})")
    if device == "cuda" and size.parameters < SMALL:
        report.add(lambda: line("sdpa", graph=True), f"{name}, fused attention, one CUDA graph a step")
        report.add(
            lambda: line("sdpa", "inductor", graph=True), f"{name}, fused attention, compiled, one CUDA graph a step"
        )


def _about(size: Size) -> dict:
    return {"parameters": size.parameters, "context": size.model.context, "batch_tokens": size.batch_tokens}


# --- the package ----------------------------------------------------------------------------------------------------


def against_trainer(report: Report, size: Size, plan: Plan, threads: int) -> dict:
    """Our loop and `Trainer`, both in bf16: the same model, sequences, order and steps, in alternation."""
    benchmark.CONTEXT = size.model.context  # of the windows that its Trainer is given
    speeds: dict[str, list[float]] = {}
    losses: dict[str, list[float]] = {}
    for seed in range(size.repeats):
        run = size.run(seed)
        calls = {"Trainer bf16": lambda run=run: benchmark.trainer(run, True, threads)}
        calls |= {f"ours {v}": lambda run=run, v=v: benchmark.ours(run, v, threads) for v in plan.variants}
        for name, call in calls.items():
            speed, loss = call()
            speeds.setdefault(name, []).append(speed)
            losses.setdefault(name, []).append(round(loss, 4))
    median = {name: float(np.median(values)) for name, values in speeds.items()}
    mine = max((name for name in median if name.startswith("ours")), key=median.get)
    ratio = np.array(speeds[mine]) / np.array(speeds["Trainer bf16"])
    return {
        "ours": median[mine], "peer": median["Trainer bf16"], "ratio": float(np.median(ratio)),
        "lo": float(ratio.min()), "hi": float(ratio.max()), "repeats": size.repeats, "variant": mine,
        "peer_variant": "Trainer bf16", "all": median, "final_loss": losses,
        **_about(size), **report.utilisation(median[mine], size),
    }  # fmt: skip


def stacked_sweep(report: Report, size: Size, count: int, threads: int) -> dict:
    """Runs of equal shape trained side by side, against the same runs one after the other; wall time of all of it."""
    from cptlib.runs.engine import Engine
    from cptlib.runs.train import train, train_together

    engine = Engine(threads=threads, stack=count)
    mine, theirs = [], []
    for repeat in range(size.repeats):
        runs = [size.run(1000 * (repeat + 1) + k) for k in range(2 * count)]  # a run that was trained is not begun anew
        begun = time.perf_counter()
        train_together(runs[:count], engine)
        mine.append(count * size.run(0).tokens / (time.perf_counter() - begun))
        begun = time.perf_counter()
        for run in runs[count:]:
            train(run, engine)
        theirs.append(count * size.run(0).tokens / (time.perf_counter() - begun))
    ratio, speed = np.array(mine) / np.array(theirs), float(np.median(mine))
    return {
        "ours": speed, "peer": float(np.median(theirs)), "ratio": float(np.median(ratio)), "lo": float(ratio.min()),
        "hi": float(ratio.max()), "repeats": size.repeats, "stack": count,
        "peer_variant": "one after the other", **_about(size), **report.utilisation(speed, size),
    }  # fmt: skip


def main(argv: list[str] | None = None) -> int:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=9.0, help="begin no measurement after this (default: 9)")
    parser.add_argument("--out", type=Path, help=f"file to write (default: {OUT.relative_to(HERE.parent)})")
    parser.add_argument("--tiny", action="store_true", help="models of a moment, on any machine; writes only --out")
    options = parser.parse_args(argv)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cpu" and not options.tiny:
        print("no GPU here, so nothing is measured; --tiny shows that the benchmark runs")
        return 0
    plan, threads = Plan.of(options.tiny), os.cpu_count() or 1
    name = torch.cuda.get_device_name() if device == "cuda" else f"{platform.machine()} CPU, {threads} cores"
    report = Report(options.out or (None if options.tiny else OUT), 60 * options.minutes, name, options.tiny)
    print(f"{name}; {DATA}", flush=True)
    sheet = [peak for card, peak in PEAKS.items() if card in name]
    report.body["peaks"] = {"data_sheet": sheet[0]} if sheet else {}
    for kind, dtype in (("bf16", torch.bfloat16), ("fp32", torch.float32)):
        report.body["peaks"][kind] = product(plan.square, dtype, device)
        print(f"matrix product of {plan.square} in {kind}: {report.body['peaks'][kind] / 1e12:.3g} TFLOP/s", flush=True)
    with synthetic(plan):
        for size in plan.sizes:
            report.add(
                lambda size=size: against_trainer(report, size, plan, threads),
                f"tokens/s of one run, {size.parameters / 1e6:.3g} M parameters",
            )
            bare_lines(report, size, plan, device)
            if size.parameters < SMALL:
                report.add(
                    lambda size=size: stacked_sweep(report, size, plan.stack, threads),
                    f"tokens/s of {plan.stack} runs side by side, {size.parameters / 1e6:.3g} M parameters",
                )
    report.write()
    print(f"{len(report.body['lines'])} measurements, {len(report.body['left_out'])} left out"
          + (f"; wrote {report.out}" if report.out else ""))  # fmt: skip
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
