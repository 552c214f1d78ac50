"""What every block takes of a device, as a sum of parts.

Multipliers and memories are counted exactly (:mod:`hwgen.device.storage`); LUTs and flip-flops are
estimated from features of each part, with coefficients fitted to synthesis
(:mod:`hwgen.device.cost`, ``benchmarks/resources.py``).  Each function takes the configuration of
a block or of a part, which calls it in its ``area``; which device family it is comes later.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from hwgen.device.arithmetic import levels
from hwgen.device.cost import Area, counted, logic, memory, total
from hwgen.device.multiplier import MULTIPLIERS
from hwgen.device.storage import memory_part, memory_style


def wrap(count: int) -> int:
    """Bits of a counter that does not wrap of itself: those that a comparison and a choice take."""
    bits = max(count - 1, 1).bit_length()
    return bits if count & (count - 1) else 0


def queue(width: int, depth: int, claims: int = 1, style: str = "") -> Area:
    bits = depth.bit_length()
    return buffer(width, depth, style) + logic(
        "queue", one=1, bits=bits, address=2 * (max(depth, 2) - 1).bit_length(),
        lut_wrap=2 * wrap(depth), lut_five=min(bits, 5), claim=claims * (bits + 1),
        lut4_claims=claims,
        ff_register=buffer_registers(width, depth, style),
    )


def buffer(width: int, depth: int, style: str = "", copies: int = 1) -> Area:
    """``copies`` of a buffer memory, without its registers."""
    depth = max(depth, 2)
    style = memory_style(width, depth, style)
    parts = -(-depth // 64) if style == "distributed" else 1
    # Blocks of an ECP5 do not keep the old word when a read meets a write: registers beside them
    # keep it, and addresses are compared.
    blocks = copies * -(-depth // memory_part(width, depth, style)[1]) * (style == "block")
    return total([memory(width, depth, style)] * copies) + logic(
        "buffer", lut_choice=copies * width * (parts - 1),
        lut4_block=width * blocks, ff4_block=width * blocks,
        lut4_address=levels(depth) * blocks, ff4_address=levels(depth) * blocks,
    )


def buffer_registers(width: int, depth: int, style: str = "") -> int:
    """Flip-flops behind a buffer memory."""
    depth = max(depth, 2)
    style = memory_style(width, depth, style)
    if style == "distributed":
        return 2 * width
    parts = -(-depth // memory_part(width, depth, style)[1])
    return width * parts + 2 * levels(parts)


def output_queues(config, claims: int = 1) -> Area:
    return total(queue(stream.width, depth, claims, style) for stream, depth, style in
                 zip(config.outputs, config.queue_depths, config.queue_styles, strict=True))


def skid(width: int) -> Area:
    return logic("skid", one=1, width=width)


def round_shift(
    width: int, shifts: tuple[int, int], output, count: int = 1, half_bits: int = 0
) -> Area:
    """``count`` rounders."""
    low, high = shifts
    whole = max(width, high, half_bits) + 1
    kept = max(whole - low, 2)
    span = (high - low).bit_length()
    by_1 = {0: 0, 1: 1, 2: 1}.get(span, 2.5)
    by_8 = 0 if span <= 3 else (1 << span - 3) // 2
    return logic(
        "round", ff_register=count * (whole + 3 * kept + output.bits + 3 + span + min(span, 3)),
        lut_one=count, lut_kept=count * kept, lut_by_1=count * kept * by_1,
        lut_by_8=count * kept * by_8, lut_dropped=count * low / 5,
        lut_output=count * output.bits * 1.5,
        lut_zero=count * kept * (output.zero_point != 0),
    )


def product(
    multiplier: str, a: int, b: int, count: int = 1, digits: Sequence[int] = (),
    kind: str = "",
) -> Area:
    """``count`` products of registers, ``a`` the wider.

    ``digits``: for each two bits of ``b``, how many of them are not always zero.
    """
    device = MULTIPLIERS[multiplier]
    if device.dsp:
        tiles = device.tiles(a, b)
        return counted(dsp=count * device.dsps(a, b)) + logic(
            f"{kind}product", ff_register=count * (a + b), part=count * (tiles - 1) * (a + b)
        )
    digits = digits or [min(2, b - k) for k in range(0, b, 2)]
    rows = sum(n > 0 for n in digits)
    tree, level = 0, 1
    while rows > 1:
        tree += rows // 2 * (a + (2 << level))
        rows, level = -(-rows // 2), level + 1
    return logic(
        f"{kind}fabric", double=count * sum(n == 2 for n in digits) * (a + 2),
        single=count * sum(n == 1 for n in digits) * a, tree=count * tree, one=count,
        lut4_adders=count * (2 * sum(n > 0 for n in digits) - 1),
    )


def requantiser(config) -> Area:
    count = config.lanes * config.pixels
    (bias, scale, *_), table = config._table
    table = table.reshape(config.rows, config.lanes, -1)
    some = config.rows > 1

    def different(columns: np.ndarray) -> int:
        """Bits of a row that are not always the same; where rows are few, none is like another."""
        columns = columns.reshape(config.rows, -1)
        varying = (columns != columns[:1]).any(0)
        if config.rows > 12 or not varying.any():
            return int(varying.sum())
        return np.unique(columns[:, varying], axis=1).shape[1]

    live = table[:, 0, bias : bias + scale].any(0)
    wide, narrow = config._operands
    signed_live = [*live.tolist(), False]
    if config.acc_bits >= len(signed_live):
        digits = [sum(signed_live[k : k + 2]) for k in range(0, narrow, 2)]
        a, b = wide, narrow
    else:
        digits, a, b = (), int(live.sum()) + 1, narrow
    blocks, blocks4 = -(-config.rows // 64), -(-config.rows // 16)
    # Without a bias three registers are left, a shift register.
    plain = bool(table[:, :, :bias].any())
    scales = table[:, :, bias : bias + scale]
    constant = not (scales != scales[:1]).any()
    out = product(config.multiplier, a, b, count, digits, "constant " if constant else "")
    if config.lookup is not None:
        out += words([config.lookup.by_address], config.lookup_memory, count)
    return out + total((
        logic(
            "requantiser", one=1, ff_latency=config.latency,
            address=(max(config.rows, 2) - 1).bit_length() * some,
            lut_wrap=wrap(config.rows) * some,
            sets=config.choice_latency * (max(config.rows, 2) - 1).bit_length(),
            lut_table=different(table) * blocks, lut_choices=different(table) * choices(blocks),
            ff_bias=different(table[:, :, :bias]), moved=different(table[:, :, bias:]),
            ff_few=different(table[:, :, bias:]) * (config.rows < 16),
            ff_acc=count * config.acc_bits * (plain + 2 * (config.sets == 1) * plain),
            lut_acc=count * config.acc_bits * plain,
            lut_late=count * config.acc_bits * (config.sets > 1 or not plain),
            ff4_late=count * config.acc_bits * (config.sets > 1 or not plain),
            lut4_table=different(table) * blocks4, lut4_choices=different(table) * (blocks4 - 1),
            lut4_adders=count,
        ),
        round_shift(wide + narrow - 1, config.shifts, config.output, count, config.half_bits),
    ))


def column(config, times: int = 1) -> Area:
    packing, bits = config.packing, config.field_bits
    out = logic(
        "column", sum=times * config.outputs * (config.chains - 1) * (bits + 2),
        acc=times * config.outputs * config.acc_bits, one=times * config.outputs,
        carry=times * (config.outputs - 1) * config.chains,
        lut4_adders=times * config.outputs * (config.chains - 1),
        lowest=times * (config.outputs - 1) * config.simd * bool(config.guard),
        field=times * (config.outputs - 1) * config.chains * bool(config.guard),
    )
    if packing.device.sum_bits:
        return out + counted(dsp=times * config.simd)
    wide, narrow = (config.operand_bits, packing.activation_bits)
    return out + product(packing.multiplier, wide, narrow, times * config.simd) + logic(
        "tree", operand=times * config.simd * (wide + narrow),
        sum=times * (config.simd - config.chains) * (wide + narrow + 1),
        lut4_adders=times * (config.simd - config.chains),
    )


def array(config, before: int = 0) -> Area:
    """An array whose activations come from ``before`` registers that go nowhere else.

    Three registers in a row are a shift register, those before the array included.
    """
    shared = config.weights_shared
    times = config.groups * (config.pe if shared else config.pixels)
    skew = config.columns[0].skew
    chains = [(before + (0 if shared else late), config.x_bits) for late in skew]
    if shared:
        # Packing takes a borrow off all but the first, and has registers of its own.
        chains += [(1 + late, config.packing.word_bits) for late in skew]
    size = config.groups * config.pixels
    packed = config.simd * config.packing.word_bits * (size - config.groups) * shared
    return total(column(c, times) for c in config.columns) + logic(
        "array", ff_register=size * sum(n * bits for n, bits in chains if n < 3),
        lut_shift=size * sum(bits for n, bits in chains if n >= 3), lut_packed=packed,
        ff4_shift=size * sum(n * bits for n, bits in chains if n >= 3),
    )


def table_luts4(columns: np.ndarray) -> tuple[int, int]:
    """A table of known contents ``(rows, bits)``: functions of four bits, and choices."""
    count = -(-len(columns) // 16)
    padded = np.pad(columns, ((0, count * 16 - len(columns)), (0, 0)), mode="edge")
    values = padded.reshape(count, 16, -1).transpose(2, 0, 1) @ (1 << np.arange(16))
    # Of a function and its inverse one is enough.
    functions = np.minimum(values, 0xFFFF - values)
    return (len(set(functions.ravel().tolist()) - {0}),
            sum(len(set(column)) - 1 for column in values.tolist()))


def table_luts(columns: np.ndarray) -> tuple[int, int]:
    """A table of known contents ``(rows, bits)``: functions of six bits, and choices among them."""
    count = -(-len(columns) // 64)
    padded = np.pad(columns, ((0, count * 64 - len(columns)), (0, 0)), mode="edge")
    blocks = padded.reshape(count, 64, -1).transpose(2, 0, 1).astype(bool)
    # What is always the same takes none, and an inverter is free.
    words, whole = (np.ascontiguousarray(np.packbits(bits, axis=2)).view(np.uint64)[..., 0]
                    for bits in (blocks ^ blocks[:, :, :1], blocks))
    return (len(set(words.ravel().tolist()) - {0}),
            sum(choices(len(set(column))) for column in whole.tolist()))


def table_lookup(config) -> Area:
    memory = config.memory
    values = config.op.by_address
    tables = [values[k :: config.lanes] for k in range(config.lanes)] if (
        config.op.by_channel) else [values]
    return output_queues(config) + words(tables, memory, config.lanes) + logic(
        "table", one=1, valid=config.push_latency,
        counter=levels(config.tables), wrap=wrap(config.tables) if config.tables > 1 else 0,
    )


def words(tables: Sequence[np.ndarray], memory, lanes: int) -> Area:
    """Tables of lanes: one of each, or one for all of them."""
    if memory.kind != "distributed":
        return total([memory.area()] * lanes)
    columns = [(t.reshape(-1, 1) >> np.arange(memory.width)) & 1 for t in tables]
    luts, chosen, luts4, chosen4 = (
        sum(n) * lanes // len(tables)
        for n in zip(*(table_luts(c) + table_luts4(c) for c in columns), strict=True)
    )
    varying = sum(int((c != c[:1]).any(0).sum()) for c in columns) * lanes // len(tables)
    return logic("words", lut_words=luts, lut_choices=chosen, ff_words=varying,
                 lut4_words=luts4, lut4_choices=chosen4)


def pair(config) -> Area:
    out = output_queues(config) + total(skid(stream.width) for stream in config.inputs)
    return out + logic("pair", one=1, valid=config.push_latency)


def adder(config) -> Area:
    bits = config.product_bits
    columns = [(values[:, None] >> np.arange(bits)) & 1 for _, _, values in config.pieces]
    words, chosen, words4, chosen4 = (
        sum(n) for n in zip(*(table_luts(c) + table_luts4(c) for c in columns), strict=True)
    )
    varying = sum(int((c != c[:1]).any(0).sum()) for c in columns)
    lanes = config.lanes
    return total((
        pair(config),
        logic("constant", lut_words=lanes * words, lut_choices=lanes * chosen,
              ff_words=lanes * varying, lut4_words=lanes * words4, lut4_choices=lanes * chosen4),
        logic("adder", sum=lanes * config.sum_bits * (len(columns) - 1),
              lut4_adders=lanes * (len(columns) - 1)),
        round_shift(config.sum_bits, (config.op.shift,) * 2, config.op.output, lanes),
    ))


def product_block(config) -> Area:
    a, b = config.operands
    zero = sum(t.zero_point != 0 for t in config.tensors)
    return total((
        pair(config), requantiser(config.requantiser),
        product(config.device.name, a, b, config.lanes),
        logic("operands", bits=config.lanes * (a + b), offset=config.lanes * zero * a),
    ))


def global_pool(config) -> Area:
    width = config.acc_bits * config.lanes
    beats = config.beats_per_site
    x = config.inputs[0].width
    maximum = config.requantiser is None
    out = output_queues(config)
    features: dict[str, Any] = {
        "one": 1, "flags": config.join_latency, "counter": levels(beats), "lut_wrap": wrap(beats),
        "pixels": levels(config.tensor.pixels), "lut_maximum": width * maximum,
        "lut_sum": width * (not maximum), "ff_register": beats * width + x,
        "lut4_adders": config.lanes,
    }
    if beats == 4:
        # All of the ring but its first: three registers that go nowhere else.
        features |= {"ff_register": width + x, "lut_shift": width, "ff4_shift": 3 * width}
    if config.in_memory:
        out += buffer(width, beats)
        features |= {"ff_register": buffer_registers(width, beats) + width + 2 * x,
                     "lut_address": levels(beats), "lut_later": x}
    out += logic("global pool", **features)
    return out + requantiser(config.requantiser) if config.requantiser else out


def argmax(config) -> Area:
    bits, index = config.tensor.bits, config.outputs[0].width
    lane = levels(config.lanes)
    pairs = registers = 0
    left = config.lanes
    for level in range(config.tree_levels):
        pairs += left // 2
        left = -(-left // 2)
        registers += left * (bits + level + 1)
    return output_queues(config) + logic(
        "argmax", one=1, flags=config.push_latency, x=bits * config.lanes, tree=registers,
        pairs=pairs * bits, lut4_pairs=pairs, compare=bits,
        base=max(config.tensor.channels - 1, 1).bit_length(),
        lane=lane, number=index, beats=levels(config.tensor.channels // config.lanes) + 1,
    )


def gather(config) -> Area:
    out = output_queues(config)
    width = config.inputs[0].width
    if config.way == "filter":
        wanted = len(np.unique(config.sources[:, 0, 0]))
        some = wanted < config.beats_in
        return out + logic("filter", one=1, counter=levels(config.beats_in) * some)
    counters = levels(config.beats_in) + 2 * levels(config.beats_out)
    common: dict[str, float] = {"one": 1, "counters": counters, "valid": config.push_latency}
    if config.way == "registers":
        return out + logic(
            "gather registers", **common, held=width * (config.beats_in - 1), taken=width,
            leaving=config.tensor.bits * len(config.op.order),
        )
    bits = config.tensor.bits
    memories = total(buffer(len(read) * bits, config.memory_depth) for read in config.lanes_read)
    reads = [len(read) for read in config.lanes_read]
    held = shifted = 0
    for count in reads:
        register = buffer_registers(count * bits, config.memory_depth)
        if count == 1 and register == 2 * bits:
            # The memory's two registers and the one behind them, with no choice between.
            shifted += bits
        else:
            held += register + bits
    return out + memories + config.walk.area() + logic(
        "gather memories", **common, ff_register=held, lut_shift=shifted,
        ff4_shift=3 * shifted, late=config.walk.latency * width,
        lut_choose=sum(bits * (n // 2) for n in reads), choice=sum(map(levels, reads)),
    )


def fifo(config) -> Area:
    return output_queues(config) + logic("fork", branch=len(config.outputs))


def turns(counts: list[int]) -> dict[str, float]:
    return {"turns": len(counts), "beats": levels(max(counts)),
            "ends": sum(max(n - 1, 1).bit_length() for n in counts)}


def concatenate(config) -> Area:
    inputs = len(config.inputs)
    return output_queues(config) + logic(
        "concatenate", one=1, width=config.outputs[0].width,
        choices=config.outputs[0].width * ((inputs - 1) // 2 + (inputs > 4)),
        **turns([t.beats_per_site for t in config.inputs]),
    )


def splitter(config) -> Area:
    return output_queues(config) + logic(
        "splitter", one=1, **turns([t.beats_per_site for t in config.outputs])
    )


def lane_change(config) -> Area:
    units_in, units_out = config.lanes_in // config.unit, config.lanes_out // config.unit
    return output_queues(config) + logic(
        "lane change", one=1, held=config.inputs[0].width, word=config.outputs[0].width,
        shift=config.inputs[0].width * (units_in > 1), units_out=units_out,
        left=units_in.bit_length(), slot=levels(units_out), wrap=wrap(units_out),
    )


def distinct(values, bits: int) -> int:
    """Bits of a choice among constants that differ from case to case, each counted once."""
    columns = (np.array(sorted(set(values)))[:, None] >> np.arange(bits)) & 1
    columns ^= columns[:1]
    return len({column.tobytes() for column in columns.T if column.any()})


def changes(values: list[np.ndarray], jump: int, modulus: int) -> list[int]:
    """The cases of :meth:`hwgen.parts.walk.Walk._change`."""
    out, before = [0], 0
    for d in reversed(range(len(values))):
        out += [int(before + step) % modulus for step in set(np.diff(values[d]).tolist())]
        before += int(values[d][0] - values[d][-1])
    return [*out, (before + jump) % modulus]


def shift_or_registers(registers: int, bits: int) -> dict[str, float]:
    """Features of some registers in a row: three or more are a shift register."""
    if registers > 2:
        return {"lut_shift": bits, "ff4_shift": registers * bits}
    return {"ff_register": registers * bits}


def last_registers(config) -> int:
    """Registers in a row at the end of a window: of the memory, if nothing is chosen after it."""
    if config.fill is not None or len(banks_read(config, 0)) > 1:
        return 1
    width = config.word_lanes * config.input.tensor.bits
    if memory_style(width, max(config.depth, 2), config.style) == "distributed":
        return 3
    return 2 if buffer_registers(width, config.depth, config.style) == width else 1


def banks_read(config, tap: int) -> set[int]:
    """Banks of a copy of the buffer that are read; synthesis takes away the others."""
    folds = range(tap, config.tap_folds * config.tap_lanes, config.tap_lanes)
    return {bank for turn in config.taps for k in folds if k < len(turn) for _, bank in turn[k]}


def window(config, behind: int | None = 0) -> Area:
    """With as many registers behind each output; None: those of the outputs are not counted."""
    course, stream = config.walked, config.input
    bits, depth = config.position_bits, config.depth
    width = config.word_lanes * stream.tensor.bits
    address = max(depth - 1, 1).bit_length()
    words = config.words_per_pixel
    axes, phases = course.axes, course.phases
    need = changes([-a.need for a in axes], -course.pixels, 1 << bits)
    step = changes([a.origin * a.unit * words for a in axes], course.pixels * words, depth)
    need_bits, step_bits = distinct(need, bits), distinct(step, address)
    inside = sum(not a.inside(t).all() for a in axes for t in range(len(a.taps)))
    bounds = sum(levels(a.places) for a in axes
                 for t in range(len(a.taps)) if not a.inside(t).all())
    index = sum(levels(a.places) for a in axes)
    per_word = config.word_lanes // stream.lanes
    per_segment = config.segment // stream.lanes
    turns = config.banks // stream.pixels
    steps = (config.groups, config.folds, config.tap_folds, config.words_per_group,
             config.fold_cycles - config.steps + 1)
    beats = {stream.beats_per_site, per_segment, per_word}
    counters = [*steps, *beats, turns]
    banks = [len(banks_read(config, tap)) for tap in range(config.tap_lanes)]
    copies = sum(banks)
    folds, outs = config.tap_folds * config.turns, config.tap_lanes * config.columns
    word_bits = levels(words)
    filled = config.fill is not None and inside > 0
    choices = (folds - 1) * address if folds > 1 else 0
    last = last_registers(config)
    register = buffer_registers(width, depth, config.style) if last == 1 else 0
    ends = {} if behind is None else shift_or_registers(last + behind, outs * width)
    return buffer(width, depth, config.style, copies) + logic(
        "window", lut_one=1,
        ff_register=bits * (7 + len(axes)) + 3 * need_bits + 3 * step_bits + 4 * inside + index
        + width * stream.pixels + 4 * address + sum(map(levels, counters)) + 14 + word_bits,
        ff_axes=len(axes),
        lut_position=bits * (5 + len(axes)), lut_base=3 * address, lut_index=2 * index,
        lut_counters=sum(map(levels, counters)), lut_need=need_bits * len(set(need)),
        lut_step=step_bits * len(set(step)), lut_bounds=bounds,
        lut_enables=per_word * (per_word > 1), phases=levels(phases) * (phases > 1),
        lut_release=bits, lut4_adders=8 + len(axes), lut4_counters=len(counters),
    ) + logic(
        "tap", ff_register=copies * (3 * address + 1 + register)
        + (copies * address if folds > 1 else 0) + ends.get("ff_register", 0),
        lut_shift=ends.get("lut_shift", 0), ff4_shift=ends.get("ff4_shift", 0),
        lut_address=copies * address, lut_one=copies, lut_offset=copies * choices,
        lut_fill=outs * width * filled,
        lut_banks=config.columns * width * sum(n - 1 for n in banks),
        ff_choice=5 * levels(config.banks) * sum(n > 1 for n in banks),
        lut_word=copies * word_bits, ff_flag=copies,
    )


def pixel_reader(config) -> Area:
    return window(config.window) + output_queues(config)


def pool(config) -> Area:
    width = config.tensor.bits if config.requantiser is None else config.requantiser.acc_bits
    maximum = config.requantiser is None
    out = window(config.window, 1) + output_queues(config)
    bits, lanes, taps = config.tensor.bits, config.lanes, config.tap_lanes
    out += logic(
        "pool", one=1, ff_flags=config.tree_levels + 2, steps=levels(config.window.steps),
        ff_register=lanes * ((taps - 1) * (bits + 2 * (not maximum)) + width),
        lut_largest=bits * lanes * taps * maximum, lut_result=width * lanes * (not maximum),
        lut_tree=(bits + 2) * lanes * (taps - 1) * (not maximum),
        lut4_adders=lanes * taps,
        counts=levels(config.window.window.taps) * config.counts * taps,
    )
    return out + requantiser(config.requantiser) if config.requantiser else out


def convolution(config) -> Area:
    results = int(config.fold_results.max())
    counts = sorted({int(n) for n in config.fold_results})
    pixels, late = config.pixels_out, config.weight_latency
    held = config.requantiser.acc_bits * results * pixels
    beats = (results // config.lanes_out).bit_length()
    flags = late + config.array.latency
    out = window(config.window, None) + requantiser(config.requantiser)
    out += output_queues(config, 1 if config.tile else len(counts)) + array(
        config.array, last_registers(config.window) + late
    )
    out += total(memory.area() for memory in config.weights)
    skew, depth = max(config.array.skews), config.weight_depth
    if config.stream is not None:
        out += config.stream.area() + reorder(config)
        depth = config.window_depth
    address = max(depth - 1, 1).bit_length()
    steps = levels(config.window.steps)
    return out + logic(
        "convolution", one=1, ff_flags=3 * flags, ff_beats=flags * beats * (len(counts) > 1),
        ff_register=held + steps + address + beats, ff_address=address * (skew + late),
        lut_held=held * (results > config.lanes_out), lut_steps=steps,
        lut_counter=address, lut_left=beats, ends=len(config.fold_results) * (len(counts) > 1),
        lut_address=address * (skew + late > 2), phases=math.log2(config.phases),
    )


def token_matrix(config) -> Area:
    """A matrix times tokens, the queue behind it not included."""
    folding, width, depth = config.folding, config.width, max(config.depth, 2)
    # Registers that end a buffer and go nowhere else are the array's, for they may be shifted.
    registers = buffer_registers(width, depth, config.style)
    own = registers // width if registers in (width, 2 * width) else 0
    held = folding.requantiser.acc_bits * max(folding.fold_results)
    row = max(folding.weight_depth - 1, 1).bit_length()
    flags = config.operand_latency + folding.array.latency
    out = buffer(width, depth, config.style) + folding.requantiser.area()
    out += array(folding.array, own + config.activation_delay)
    out += total(memory.area() for memory in folding.weights)
    out += logic(
        "convolution", one=1, ff_flags=3 * flags, lut_counter=row,
        ff_register=held + row + folding.fold_beats.bit_length(),
        lut_held=held * (folding.fold_beats > 1), ends=folding.fold_beats > 1,
    )
    beats = folding.inputs[0].beats
    counters = (levels(beats) + levels(folding.channel_lanes // folding.lanes_in)
                + 3 * levels(depth) + levels(config.last_cycles) + levels(config.folds)
                + 2 * (config.places + 1).bit_length())
    rows = row * (max(folding.array.skews) + config.operand_latency)
    return out + counted(
        lut=counters + 4, ff=counters + rows + width + 3 + registers * (own == 0)
    )


def reorder(config) -> Area:
    """What results that come tile by tile take beside the queue, and counters of their sites."""
    order = config.order
    first, parts, sites = order.parts[0], levels(len(order.parts)), levels(order.sites)
    # Where beats are written: the site and its part; the place in it, and that of a part's first.
    places = levels(order.beats) * (2 if first > 1 else 1)
    write = levels(config.queue_depths[0]) + sites + parts + levels(first) + places + 2
    counters = 4 * sites + parts + 2
    return counted(lut=round(1.5 * (write + counters)), ff=write + counters)


def weight_table(width: int, depth: int) -> Area:
    """Weights in LUTs."""
    depth = max(depth, 2)
    blocks, blocks4 = -(-depth // 64), -(-depth // 16)
    return logic("weights", lut_words=width * blocks, lut_choices=width * choices(blocks),
                 ff_words=width, lut4_words=width * blocks4, lut4_choices=width * (blocks4 - 1))


def choices(blocks: int) -> int:
    """How hard it is to choose one of some functions: synthesis finds it the harder the more."""
    return (blocks - 1) * min(blocks - 1, 4)


def sparse_convolution(config) -> Area:
    """A sparse convolution."""
    results, mac = int(config.fold_results.max()), config.mac
    held = config.requantiser.acc_bits * results
    out = window(config.window) + requantiser(config.requantiser)
    out += output_queues(config, len({int(n) for n in config.fold_results}))
    out += array(config.array) + total(memory.area() for memory in config.weights)
    if not config.keep.all():
        out += config._keep_memory.area()
    for members in mac.streams:
        count, address = len(members), levels(len(members) * mac.rows)
        entry = count * (mac.bits + 1) + address + 1
        out += queue(entry, mac.depth)
        out += counted(lut=count * (mac.bits // 2 + 8) + 2 * address + mac.bits + 12,
                         ff=3 * entry + address + mac.bits + 8)
    return out + counted(lut=held * (results > config.lanes_out) + 4 * config.count + 40,
                           ff=held + config.count * (mac.bits + 1) + 40)
