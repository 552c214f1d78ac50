"""Components under given inputs, cycle by cycle: in the Amaranth simulator, and as Verilog."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from amaranth.hdl import Const, Value
from amaranth.lib import wiring
from amaranth.sim import Simulator

from hwgen.emit.verilog import emit_component
from hwgen.sim.verilator import compile_verilog, lint

Vectors = Sequence[Mapping[str, int]]
"""Per cycle, the values of inputs by name (``load__valid``); those not named stay as they were."""

MAIN = """
#include "Vbench.h"
#include "verilated.h"
int main() {
    Vbench bench;
    bench.rst = 1;
    for (long t = 0; !Verilated::gotFinish(); ++t) {
        bench.clk = 0; bench.eval();
        bench.clk = 1; bench.eval();
        bench.rst = 0;
    }
}
"""

BENCH = """
module bench(input clk, input rst);
    reg [{ins}-1:0] vectors [0:{cycles}-1];
    wire [{ins}-1:0] in;
    wire [{outs}-1:0] out;
    integer t = 0;
    initial $readmemh("vectors.hex", vectors);
    assign in = vectors[t];
    top dut (.clk(clk), .rst(rst){ports});
    always @(posedge clk) if (!rst) begin
        $display("%h", out);
        if (t == {cycles} - 1) $finish;
        else t <= t + 1;
    end
endmodule
"""


def _ports(component: wiring.Component, flow: wiring.Flow) -> dict[str, Value]:
    return {
        "__".join(map(str, path)): Value.cast(value)
        for path, member, value in component.signature.flatten(component)
        if member.flow == flow and not isinstance(value, Const)
    }


def in_amaranth(component: wiring.Component, vectors: Vectors) -> list[dict[str, int]]:
    """Outputs at the end of each cycle, as unsigned integers."""
    ins, outs = _ports(component, wiring.In), _ports(component, wiring.Out)
    seen: list[dict[str, int]] = []
    simulator = Simulator(component)
    simulator.add_clock(1e-6)

    async def drive(ctx) -> None:
        for vector in vectors:
            for name, value in vector.items():
                ctx.set(ins[name].as_unsigned(), value)
            seen.append({name: ctx.get(value.as_unsigned()) for name, value in outs.items()})
            await ctx.tick()

    simulator.add_testbench(drive)
    simulator.run()
    return seen


def in_verilator(
    component: wiring.Component, vectors: Vectors, folder: Path, flags: Sequence[str] = ()
) -> list[dict[str, int]]:
    """The same of the emitted Verilog, which must be lint-clean."""
    ins, outs = _ports(component, wiring.In), _ports(component, wiring.Out)
    values, words = dict.fromkeys(ins, 0), []
    for vector in vectors:
        values |= vector
        word, low = 0, 0
        for name, port in ins.items():
            word |= values[name] << low
            low += len(port)
        words.append(word)
    rtl = emit_component(component)
    rtl.write(folder)
    lint(rtl, folder)
    ports = ""
    for bus, members in (("in", ins), ("out", outs)):
        low = 0
        for name, port in members.items():
            ports += f", .{name}({bus}[{low} +: {len(port)}])"
            low += len(port)
    (folder / "vectors.hex").write_text("".join(f"{word:x}\n" for word in words))
    (folder / "bench.v").write_text(BENCH.format(
        ins=sum(map(len, ins.values())), outs=sum(map(len, outs.values())), cycles=len(vectors),
        ports=ports,
    ))
    (folder / "main.cpp").write_text(MAIN)
    program = compile_verilog(
        ["bench.v", *rtl.verilog], "bench", [folder / "main.cpp"], folder, optimise=False,
        flags=flags,
    )
    result = subprocess.run([program], cwd=folder, capture_output=True, text=True, check=True)
    seen = []
    for line in result.stdout.split()[: len(vectors)]:
        word, found = int(line, 16), {}
        for name, port in outs.items():
            found[name] = word & ((1 << len(port)) - 1)
            word >>= len(port)
        seen.append(found)
    return seen
