"""Convolutional networks of timm and torchvision: which go in as torch exports them.

    python -m benchmarks.families [--quick] [--only TEXT ...] [--results FILE]
    python -m benchmarks.families --simulate [NAME ...]

Takes the smallest network of each family of timm and torchvision, if it has few enough parameters
(``pip install --no-deps timm==1.0.31 torchvision==0.28.0 huggingface_hub safetensors httpx``), with
seeded weights, exports it with torch at a small size, reads it, and compares the integer graph and
``host.onnx`` with onnxruntime on the exported file.  Results are kept line by line in a file; what
is in it is not run again.  The table is written to docs/families.md; ``--quick`` takes ten families
and only prints.  ``--simulate`` builds networks of timm, by default its small ones for tests, for a
board and runs two frames through their Verilog.
"""

from __future__ import annotations

import argparse
import importlib
import io
import json
import re
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx

from hwgen.errors import HwgenError
from hwgen.models.frames.images import photographs
from hwgen.models.host.model import input_name
from hwgen.models.load import read
from hwgen.models.onnx.session import session

PAGE = Path(__file__).parent.parent / "docs" / "families.md"
SIZES = 64, 96, 128, 160, 224, 256
"""Heights and widths that are tried, smallest first."""
FRAMES = 2
MOST = 25_000_000
"""Most parameters of a network that is tried."""
ATTENTION = re.compile(r"attention|attn|op '(Einsum|Attention)'")
"""Refusals of networks that are no convolutional ones."""
NOT_EXPORTED = "cannot be exported"
"""What torch itself does not export."""
SIMULATED = (
    "test_byobnet", "test_convnext", "test_convnext2", "test_convnext3", "test_efficientnet",
    "test_efficientnet_gn", "test_efficientnet_ln", "test_mambaout", "test_nfnet", "test_vit",
)
"""Networks of one stage each with what large families have: gates, normalisations, attention."""
BOARD = "u250"
HEAD = """# Networks of timm and torchvision

`python -m benchmarks.families` makes this page: the smallest network of each family, if it has at
most {most} million parameters, with seeded weights, as torch exports it. dB is that of the integer
graph (w8a8) and `host.onnx` against onnxruntime on the file. Layers that have learned nothing blow
rounding up, some of them by much; the number shows that a network was read right, and says little
of its accuracy once it is trained.

{lines} families. torch does not export {without} of them; {attention} have a form of attention or
recurrence that is not read yet. Of the other {others}, {inside} go in ({share:.0f} %).

| family | network | size | dB | refused |
|---|---|---|---|---|"""
QUICK = ("resnet", "densenet", "mobilenetv2", "seresnet", "ghostnet", "regnety", "dla", "vgg",
         "inception_v", "convnext_atto")


@dataclass(frozen=True)
class Family:
    """A family of networks, and how its smallest is made."""

    name: str
    model: str
    make: Callable


def families(wanted: Sequence[str] = ("",), known: Mapping[str, dict] = {}) -> list[Family]:
    """The smallest network of each family whose name has one of some texts in it.

    The smallest by number of parameters, which are counted without memory; ``known`` are results
    that say the network already.
    """
    import torch

    # What torchvision declares for its own C++ code, which CPU builds lack.
    library = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    timm, torchvision = map(importlib.import_module, ("timm", "torchvision"))
    makers = {f"timm {n}": lambda n=n: timm.create_model(n, pretrained=False)
              for n in timm.list_models()}
    names = torchvision.models.list_models(module=torchvision.models)
    makers |= {f"torchvision {n}": lambda n=n: torchvision.models.get_model(n, weights=None)
               for n in names}
    found: dict[str, list[str]] = {}
    for name in makers:
        origin, model = name.split()
        stem = re.match(r"[a-z]+(?:v\d+)?(?:_[a-z]+)?", model)
        assert stem is not None
        found.setdefault(f"{origin} {stem.group()}", []).append(name)
    smallest = []
    for family, members in sorted(found.items()):
        if not any(text in family for text in wanted):
            continue
        if family in known:
            smallest.append((0, Family(family, known[family]["model"], list)))
            continue
        size, name = min((_parameters(makers[name]), name) for name in members)
        if size > MOST:
            continue
        smallest.append((size, Family(family, name.split()[1], makers[name])))
    return [family for _, family in sorted(smallest, key=lambda each: each[0])]


def _parameters(make: Callable) -> int:
    """Number of parameters; a large number if the network cannot be made without memory."""
    import torch

    try:
        with torch.device("meta"):
            return sum(p.numel() for p in make().parameters())
    except Exception:  # whatever a constructor raises that computes
        return 1 << 40


def exported(make: Callable) -> tuple[bytes, int]:
    """A network with seeded weights as an ONNX file, and its size: the least that it takes."""
    import torch

    torch.manual_seed(0)
    module = make().eval()
    for parameter in module.parameters():
        if parameter.ndim > 1 and not parameter.any():
            # Some begin their last layer with zeros; nothing could be compared.
            torch.nn.init.normal_(parameter, std=parameter[0].numel() ** -0.5)
    for part in module.modules():
        if getattr(part, "running_mean", None) is not None:
            # A little of the statistics of batches: activations keep their scale, but differences
            # are not blown up as they are by normalisation of layers that have learned nothing.
            part.momentum = 0.15
    failure: Exception = HwgenError("no size was tried")
    for size in SIZES:
        buffer = io.BytesIO()
        try:
            with torch.no_grad():
                module.train()
                for seed in range(2):
                    # Statistics of photographs, so that activations keep their scale.
                    photos = photographs(16, (size, size), seed).transpose(0, 3, 1, 2)
                    module(torch.from_numpy(photos.astype(np.float32) / 255))
                module.eval()
                torch.onnx.export(module, (torch.zeros(1, 3, size, size),), buffer,
                                  dynamo=False, opset_version=17)
            return buffer.getvalue(), size
        except Exception as error:  # whatever a network raises that needs a larger image
            failure = error
    why = (str(failure).splitlines() or [type(failure).__name__])[0]
    raise HwgenError(f"{NOT_EXPORTED}: {why[:120]}")


def decibels(path: Path) -> float:
    """Signal to noise of integer graph and host against onnxruntime on the file."""
    source = read(str(path))
    assert source.host is not None
    whole, host = session(onnx.load(path)), session(source.host)
    codes = source.graph.evaluate(source.calibration(FRAMES))
    signal = noise = 0.0
    for k, feed in zip(range(FRAMES), source.feeds):
        wanted = whole.run(None, feed)
        got = host.run(None, {input_name(name): codes[name][k : k + 1]
                              for name in source.graph.outputs})
        for a, b in zip(wanted, got, strict=True):
            a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
            signal += float(np.square(a).sum())
            noise += float(np.square(a - b).sum())
    return 10 * float(np.log10(max(signal, 1e-30) / max(noise, 1e-30)))


def check(family: Family) -> dict:
    """One family: how it went."""
    begin = time.perf_counter()
    line: dict = {"family": family.name, "model": family.model}
    try:
        data, line["size"] = exported(family.make)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "net.onnx"
            path.write_bytes(data)
            line["db"] = round(decibels(path), 1)
    except HwgenError as error:
        line["refused"] = str(error)
    except Exception as error:  # a crash is a finding
        line["crashed"] = f"{type(error).__name__}: {str(error)[:200]}"
    line["seconds"] = round(time.perf_counter() - begin, 1)
    return line


def simulate(model: str) -> bool:
    """Build a network of timm and run two frames through its Verilog; is all as predicted?"""
    from hwgen.flow import build
    from hwgen.options import Options

    begin = time.perf_counter()
    families(())
    timm = importlib.import_module("timm")
    data, size = exported(lambda: timm.create_model(model, pretrained=False))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "net.onnx"
        path.write_bytes(data)
        built = build(Options(model=str(path), board=BOARD, simulate=2))
    proof, predicted = built.simulated, built.found.timing.interval
    assert proof is not None
    print(f"{model}, {size} x {size}: {built.source.graph.macs:,} MACs, {proof.mismatches} "
          f"mismatches, {proof.interval:,} cycles a frame, predicted {predicted:,}; "
          f"{time.perf_counter() - begin:.0f} s", flush=True)
    return not proof.mismatches and proof.interval == predicted


def page(lines: list[dict]) -> str:
    """The table as Markdown."""
    attention = [x for x in lines if ATTENTION.search(x.get("refused", ""))]
    others = [x for x in lines if x not in attention and NOT_EXPORTED not in x.get("refused", "")]
    inside = [x for x in others if "db" in x]
    share = 100 * len(inside) / max(len(others), 1)
    without = len(lines) - len(others) - len(attention)
    rows = [HEAD.format(
        most=MOST // 1_000_000, lines=len(lines), without=without, attention=len(attention),
        others=len(others), inside=len(inside), share=share)]
    for x in sorted(lines, key=lambda x: x["family"]):
        why = x.get("refused", x.get("crashed", "")).replace("|", "/")
        why = re.sub(r"^Node '[^']*'", "Node", why)[:110]
        rows.append(f"| {x['family']} | {x['model']} | {x.get('size', '')} | {x.get('db', '')} | "
                    f"{why} |")
    return "\n".join(rows) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description="Networks of timm and torchvision")
    parser.add_argument("--quick", action="store_true", help="ten families; only print")
    parser.add_argument("--only", nargs="+", metavar="TEXT", help="families with such a name")
    parser.add_argument("--results", type=Path, help="file that keeps results")
    parser.add_argument("--simulate", nargs="*", metavar="NAME",
                        help="run networks of timm in Verilator instead")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    if options.simulate is not None:
        failed = [name for name in options.simulate or SIMULATED if not simulate(name)]
        return int(bool(failed))
    known: dict[str, dict] = {}
    if options.results and options.results.exists():
        read_lines = map(json.loads, options.results.read_text().splitlines())
        known = {line["family"]: line for line in read_lines}
    wanted = options.only or (QUICK if options.quick else ("",))
    lines = []
    for family in families(wanted, known):
        if family.name not in known:
            known[family.name] = check(family)
            if options.results:
                with options.results.open("a") as file:
                    file.write(json.dumps(known[family.name]) + "\n")
        lines.append(known[family.name])
        print(json.dumps(lines[-1]), flush=True)
    print(Counter("db" in line for line in lines))
    if not options.quick and not options.only:
        PAGE.write_text(page(lines))
    return int(any("crashed" in line for line in lines))


if __name__ == "__main__":
    sys.exit(main())
