"""The report of a build: plain data for ``report.json``, and a table for the terminal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict

from rich.table import Table

from hwgen.design import DesignPoint
from hwgen.device.cost import Resources
from hwgen.netlist import Netlist

__all__ = ["fabric_share", "left_to_host", "report", "sparsity", "summary"]


def report(
    netlist: Netlist, design: DesignPoint, *, model: str, interval: int, latency: int,
    first_output: int, board: Resources, usable: Resources,
) -> dict:
    """The figures of a design as plain data.

    Parameters
    ----------
    netlist, design : the design
    model : name of the network
    interval : cycles between frames
    latency, first_output : cycles from a frame's first input beat to the last beat of its last
        output, and to the first beat of its first
    board, usable : what the device holds, and how much of it a design may take

    Returns
    -------
    dict
        What ``report.json`` holds, without what only a build knows: how long its phases took, how
        it searched and what it simulated.
    """
    total = netlist.resources()
    macs = netlist.graph.macs
    layers = [_layer(netlist, name, design) for name in netlist.blocks]
    by_dsps = sum(layer["macs"] for layer in layers if layer["dsp_products"])
    streams = (*netlist.inputs.values(), *netlist.outputs.values())
    frames = sum(stream.tensor.size * -(-stream.tensor.bits // 8) for stream in streams)
    offchip = _offchip(netlist, design, interval)
    return {
        "model": model,
        "board": design.board,
        "clock_mhz": design.clock_mhz,
        "macs": macs,
        "interval_cycles": interval,
        "latency_cycles": latency,
        "first_output_cycles": first_output,
        "fps": design.clock_mhz * 1e6 / interval,
        **asdict(total),
        "offchip_bytes_per_frame": frames + offchip.get("bytes_read", 0)
        + offchip.get("bytes_written", 0),
        "offchip": offchip,
        # All multiply-accumulates, those that the fabric makes too; and the share without them.
        "mac_per_dsp_cycle": macs / (interval * total.dsp) if total.dsp else 0.0,
        "dsp_mac_share": by_dsps / macs if macs else 0.0,
        "board_resources": asdict(board),
        "usable": asdict(usable),
        "layers": layers,
    }


def sparsity(netlist: Netlist, source: str, densities: Mapping[str, float], seeded: bool) -> dict:
    """What ``report.json`` says about zeros that are passed over.

    Parameters
    ----------
    netlist : the design
    source : what the statistics of zeros are of
    densities : per layer, the share of its activations that are not zero, where it is known
    seeded : whether the weights are not trained
    """
    return {
        "source": source,
        "assumptions": [
            "Times are averages: a frame with fewer zeros takes longer, one with more is quicker.",
            "Zeros are as frequent as in the frames that were measured.",
            "Values are exact whatever the zeros, and nothing can stop for good.",
            *(["Weights are seeded, not trained: a trained network has other zeros."]
              if seeded else []),
        ],
        "layers": {
            name: {"density": densities[name]} if name in densities else None
            for name in netlist.sparse
        },
    }


def left_to_host(nodes: Sequence[Mapping]) -> str:
    """The nodes that ``host.onnx`` computes, in one line: for each op, names of its nodes."""
    names: dict[str, list[str]] = {}
    for node in nodes:
        names.setdefault(node["op"], []).append(node["name"])
    return "; ".join(
        f"{op} {', '.join(mine[:3])}{f' and {len(mine) - 3} more' if mine[3:] else ''}"
        for op, mine in names.items()
    )


def _offchip(netlist: Netlist, design: DesignPoint, interval: int) -> dict:
    """What is in off-chip memory, and what it moves for a frame, beside the frames themselves."""
    memory_map = netlist.offchip
    if memory_map is None:
        return {}
    sites = {name: config.tile_sites for name, config in netlist.blocks.items()
             if config.tile_sites}
    return {
        "ports": memory_map.ports, "data_bits": memory_map.axi.data_bits, "bytes": memory_map.size,
        "bytes_read": memory_map.reads, "bytes_written": memory_map.writes,
        "gbps": (memory_map.reads + memory_map.writes) * 8e-3 * design.clock_mhz / interval,
        "weight_bytes": sum(memory_map.uses[name].reads for name in sites),
        # What it would be if weights were read again for every site.
        "weight_bytes_by_site": sum(
            memory_map.uses[name].reads * count for name, count in sites.items()
        ),
        "blocks": {
            name: {"offset": offset, **asdict(memory_map.uses[name])}
            for name, offset in memory_map.offsets.items()
        },
    }


def _layer(netlist: Netlist, name: str, design: DesignPoint) -> dict:
    config = netlist.blocks[name]
    nodes = {node.name: node for node in netlist.graph.nodes}
    carried = [nodes[each] for each in netlist.ops.get(name, ())]
    macs = sum(node.op.macs(*(netlist.graph.types[t] for t in node.inputs)) for node in carried)
    folding = design.foldings.get(name)
    return {
        "name": name,
        "op": ", ".join(type(node.op).__name__ for node in carried) or None,
        "block": config.title,
        "kind": config.kind,
        "output": str(config.outputs[0].tensor),
        "lanes": [stream.lanes for stream in (*config.inputs, *config.outputs)],
        "pixels": [stream.pixels for stream in (*config.inputs, *config.outputs)],
        "macs": macs,
        "dsp_products": config.dsp_products,
        "interval_cycles": config.interval,
        "depths": list(config.queue_depths),
        **asdict(config.resources(netlist.family)),
        **({"folding": {field: value for field, value in asdict(folding).items()
                        if field in config.folding_fields}} if folding else {}),
        **config.figures(),
        "parts": {name: asdict(part.resources(netlist.family))
                  for name, part in config.parts().items()},
    }


def fabric_share(data: Mapping) -> str:
    """A phrase about the multiply-accumulates that LUTs make; empty if DSPs make all of them."""
    share = data["dsp_mac_share"]
    if share == 1 or not data["macs"]:
        return ""
    alone = data["mac_per_dsp_cycle"] * share
    return f"; LUTs make {1 - share:.1%} of them, without which it is {alone:.3f}"


def summary(data: Mapping, have: Resources) -> Table:
    """The few figures that matter, as a table.

    Parameters
    ----------
    data : what ``report.json`` holds
    have : what the device holds
    """
    title = f"{data['model']} on {data['board']}"
    table = Table(title=title, title_justify="left", show_header=False)
    table.add_column(style="bold")
    table.add_column(justify="right")
    table.add_column(style="dim")
    rows = (*_speed(data), *_taken(data, have), *_bounds(data), *_simulated(data))
    for row in rows:
        table.add_row(*row)
    for phase, seconds in data.get("seconds", {}).items():
        table.add_row(f"time: {phase}", f"{seconds:.1f}", "s")
    return table


Row = tuple[str, str, str]
"""What a figure is called, the figure, and what is to be said of it."""


def _speed(data: Mapping) -> Iterator[Row]:
    """Rates and times, and what they depend on."""
    if data.get("seeded"):
        yield "weights", "seeded", "[yellow]not trained: the outputs mean nothing[/]"
    mean = ", on average" if data.get("sparsity") else ""
    yield "frames per second", f"{data['fps']:,.1f}", f"at {data['clock_mhz']:g} MHz{mean}"
    yield "interval", f"{data['interval_cycles']:,}", f"cycles a frame{mean}"
    yield ("latency", f"{data['latency_cycles']:,}",
           f"cycles to the last output, {data['first_output_cycles']:,} to the first")
    yield ("MAC per DSP per cycle", f"{data['mac_per_dsp_cycle']:.3f}",
           f"{data['macs']:,} MACs a frame{fabric_share(data)}")
    if sparsity := data.get("sparsity"):
        yield ("sparse layers", f"{len(sparsity['layers'])}",
               f"all times are averages, by {sparsity['source']}")


def _taken(data: Mapping, have: Resources) -> Iterator[Row]:
    """What the design takes, of the off-chip memory and of the device."""
    if offchip := data["offchip"]:
        moved = (f"a frame reads {offchip['bytes_read']:,} bytes, "
                 f"writes {offchip['bytes_written']:,}")
        yield "off-chip memory", f"{offchip['gbps']:,.1f}", f"Gbit/s; {moved}"
    for key in ("dsp", "bram18", "uram", "lut", "ff"):
        if data[key]:
            held = getattr(have, key)
            yield (key.upper(), f"{data[key]:,}",
                   f"{data[key] / held:.0%} of {held:,}" if held else "")


def _bounds(data: Mapping) -> Iterator[Row]:
    """How far the design is from what no other could beat, if it was searched for."""
    found = data.get("search", {})
    if bound := found.get("bound_cycles"):
        names = ", ".join(f"{name} {cycles:,}" for name, cycles in found["bounds"].items()
                          if cycles and name != "dsp")
        yield ("bound of dense work", f"{bound:,}",
               f"cycles ({names}); this design {found['gap']:+.1%}")
        yield ("with DSPs alone", f"{found['dsp_bound_cycles']:,}",
               f"cycles; this design {found['dsp_gap']:+.1%}")
        yield "limited by", found["limit"], ""


def _simulated(data: Mapping) -> Iterator[Row]:
    """What the simulations showed, if there were any."""
    if "simulated" not in data:
        return
    run = data["simulated"]
    yield ("simulated", f"{run['mismatches']:,}",
           f"mismatches in {run['frames']} frames, {len(run['runs'])} runs of the Verilog")
    # A single frame has none.
    interval = run["interval_cycles"]
    yield ("simulated interval", "-" if interval is None else f"{interval:,}",
           f"latency {run['latency_cycles']:,}, first output {run['first_output_cycles']:,}")
    if memory := run["runs"][0].get("memory"):
        moved = f"{memory['bytes_read']:,} bytes read a frame, {memory['bytes_written']:,} written"
        yield "memory stalls", f"{memory['waits']:,}", f"cycles; {moved}"
