"""A whole network from Python: YOLOv5n on a photograph, in the emitted Verilog.

    python examples/detect_photograph.py [OUTDIR] [--size N] [--board BOARD] [--weights FILE]

Builds the accelerator, runs one photograph through its Verilog in Verilator and through the
integer reference, decodes both on the host, checks that they are equal, and draws the boxes.
Without ``--weights`` the network has seeded weights: it finds boxes, but they mean nothing.
"""

import argparse
from pathlib import Path

from PIL import Image

from hwgen import boards, models
from hwgen.dse.design.search import search
from hwgen.emit.verilog import emit
from hwgen.models.frames.images import photographs, to_stream
from hwgen.models.host.detect import decode, draw
from hwgen.sim.verilator import VerilatorModel


def main() -> None:
    parser = argparse.ArgumentParser(description="YOLOv5n on a photograph, in Verilog")
    parser.add_argument("out", nargs="?", type=Path, default=Path("build/detect"))
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--board", default="zcu102")
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--fps", type=float, default=2000.0)
    options = parser.parse_args()

    graph = models.load("yolov5n", size=options.size, weights=options.weights)
    found = search(graph, boards.load(options.board), target_fps=options.fps)
    netlist, timing = found.netlist, found.timing
    print(f"{graph.macs:,} MACs a frame in {timing.interval:,} cycles")

    model = VerilatorModel(emit(netlist), netlist, options.out / "simulation")
    photos = photographs(1, (options.size, options.size), seed=1)
    image = to_stream(photos, graph)
    heads = model.run(image, interval=timing.interval).outputs
    reference = graph.evaluate(image)

    (found,), (wanted,) = (decode(graph, h, most=12) for h in (heads, reference))
    for key in ("boxes", "scores", "classes"):
        assert (getattr(found, key) == getattr(wanted, key)).all(), key
    Image.fromarray(draw(photos[0], found)).save(options.out / "detections.png")
    print(f"{len(found.scores)} boxes, equal in Verilog and reference: "
          f"{options.out / 'detections.png'}")


if __name__ == "__main__":
    main()
