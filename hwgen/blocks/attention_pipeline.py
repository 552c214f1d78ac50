"""The pipeline of an attention: four stages, each at a row of its own.

What it computes, and when, is said by :class:`hwgen.blocks.attention.AttentionConfig`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value, signed
from amaranth.lib import wiring

from hwgen.blocks.output import fold_queue
from hwgen.device.arithmetic import counter, delayed
from hwgen.parts.component import Configured
from hwgen.parts.memory import BufferMemory
from hwgen.parts.requantise import RoundShift
from hwgen.parts.row_products import (
    RowStage,
    multiplied,
    row_address,
    serialised,
    token_address,
)
from hwgen.parts.softmax import largest_of_row, reciprocal_of_sum
from hwgen.parts.token_banks import TokenBanks
from hwgen.parts.token_rows import HeadRows, Rows, nested

if TYPE_CHECKING:
    from hwgen.blocks.attention import AttentionConfig

__all__ = ["EXP_BITS", "Attention"]

EXP_BITS = 7
"""Bits of an exponential."""


class Attention(Configured["AttentionConfig"]):
    """Attends, row by row: a query of one head at a time.

    Parameters
    ----------
    config : :class:`AttentionConfig`

    Members
    -------
    i_0, i_1, i_2 : :py:`In(stream.Signature(ArrayLayout(signed(bits), lanes)))`
        Queries, keys and values, token after token.
    o : :py:`Out(stream.Signature(ArrayLayout(signed(output bits), lanes)))`

    Timing
    ------
    A row starts ``config.row_cycles`` after the one before, and once its window's keys and values
    and its query's head have been accepted: a cycle after the last of these.  Its results are
    visible ``config.result_times`` after that.
    """

    config: AttentionConfig

    def elaborate(self, platform):
        m = Module()
        config = self.config
        m.submodules.keys = keys = TokenBanks(config.keys)
        m.submodules.values = values = TokenBanks(config.values)
        wiring.connect(m, wiring.flipped(self.i_1), keys.i)
        wiring.connect(m, wiring.flipped(self.i_2), values.i)
        start = Signal()
        queue, room = fold_queue(m, config, [config.row_beats], start)
        wiring.connect(m, queue.o, wiring.flipped(self.o))
        scores = self._scores(m, keys, values, start, room)
        exponentials, marks = self._exponentials(m, *scores)
        reciprocal, _ = reciprocal_of_sum(
            m, exponentials, marks, config.window_tensors[1].pixels * int(config.op.exp.max()),
            config.op.numerator, config.op.reciprocal_bits)
        self._sums(m, values, exponentials, marks, reciprocal, queue)
        return m

    def _scores(self, m: Module, keys, values, start: Signal, room: Value):
        """Scores of a row against all keys, with their bias.

        Returns
        -------
        words of scores lane by lane; a bit for each, whether its key is hidden; and whether there
        is a word
        """
        config = self.config
        # The start of rows, and their steps.
        words = config.words
        stage = RowStage(
            m, "score", self.i_0, config.row_shape, words=words, banks=keys, head_words=words,
            fold_cycles=config.fold_cycles, folds=config.keys.rows,
            gap=int(config.gaps.max()) - 1, start=start, room=room, also=(values,),
            gap_of=lambda rows: Mux(rows.last, config.last_cycles - 1,
                                    rows.of_query(config.row_cycles - 1)),
            folds_of=lambda rows: rows.of_query(config.folds - 1))
        m.d.comb += keys.address.eq(token_address(
            m, "key", config.keys, stage.rows, stage.go & stage.fold_end, stage.last_fold,
            stage.step))
        done, acc = multiplied(
            m, "score", config.score_array, stage.flags, keys.words, stage.operands(m),
            config.tensors[0].bits)
        word, valid = serialised(m, "score", done[-1], acc, config.fold_words)
        return self._biased(m, word, valid, done)

    def _biased(
        self, m: Module, word: Value, valid: Value, done: list[Value]
    ) -> tuple[Value, Value, Value]:
        """Scores with what is added to them, and which of their keys are hidden.

        Parameters
        ----------
        word, valid : scores of a fold, word by word
        done : whether a fold is complete, last when it is, and in the cycles before
        """
        config, lanes = self.config, self.config.score_lanes
        product_bits, bits = config.score_array.acc_bits, config.score_bits
        tables = config.score_tables
        if not tables:
            return word, Const(0, lanes), valid
        # Constants are read as many cycles before their scores are there.
        ahead = max(table.latency for table in tables.values())
        left = Signal(range(config.fold_words + 1), name="table_left")
        with m.If(done[-1 - ahead]):
            m.d.sync += left.eq(config.fold_words)
        with m.Elif(left != 0):
            m.d.sync += left.eq(left - 1)
        step, row_end = left != 0, Signal(name="table_row_end")
        number = counter(config.keys.rows * config.fold_words, name="table_number")
        rows = Rows(m, "table", config.row_shape, step & row_end)
        m.d.comb += row_end.eq(
            number == rows.of_query(config.folds * config.fold_words - 1))
        with m.If(step):
            m.d.sync += number.eq(Mux(row_end, 0, number + 1))
        query_end = Signal(name="table_query_end")
        m.d.comb += query_end.eq(rows.query == config.window_tensors[0].pixels - 1)
        read = {name: delayed(
            m, table.read(m, name, step, row_end, rows.token_end, query_end),
            ahead - table.latency, name) for name, table in tables.items()}
        sums = []
        for lane in range(lanes):
            score = word[lane * product_bits : (lane + 1) * product_bits].as_signed()
            total = Signal(signed(bits), name=f"biased_{lane}", reset_less=True)
            if "bias" in read:
                score = score + (read["bias"].word_select(
                    lane, tables["bias"].bits).as_signed() << config.op.bias_shift)
            m.d.sync += total.eq(score)
            sums.append(total)
        hidden = delayed(m, read["hidden"], 1, "hidden_keys") if "hidden" in read else Const(
            0, lanes)
        later = Signal(name="biased_valid")
        m.d.sync += later.eq(valid)
        return Cat(sums), hidden, later

    def _exponentials(self, m: Module, word: Value, hidden: Value, valid: Value):
        """Largest score of a row, then exponentials of the distances from it.

        Returns
        -------
        exponentials lane by lane; and two bits: whether there are any, and whether they are the
        last of a row
        """
        config = self.config
        lanes, bits = config.score_lanes, config.score_bits
        depth = config.keys.rows * config.fold_words
        with_hidden = config.score_word_bits > bits
        stored = Cat(word, hidden) if with_hidden else word
        m.submodules.score_memory = memory = BufferMemory(
            config.score_word_bits * lanes, 2 * depth)
        number, half = counter(depth, name="score_number"), Signal(name="score_half")
        end = Signal(name="score_end")
        rows = Rows(m, "largest", config.row_shape, end)
        m.d.comb += end.eq(valid & (number == rows.of_query(config.folds * config.fold_words - 1)))
        with m.If(valid):
            m.d.sync += number.eq(Mux(end, 0, number + 1))
            with m.If(end):
                m.d.sync += half.eq(~half)
        write = counter(2 * depth, name="score_address")
        data, write_en = Signal(len(stored), reset_less=True), Signal()
        m.d.sync += [
            write.eq(Mux(half, depth, 0) + number), data.eq(stored), write_en.eq(valid)]
        m.d.comb += [memory.write_en.eq(write_en), memory.write_addr.eq(write),
                     memory.write_data.eq(data)]
        # The largest: of the lanes of a word, then of words.
        last_word = rows.of_query(config.score_words - 1)
        present = rows.of_query(config.seen - (config.score_words - 1) * lanes)
        lowest = -(1 << (bits - 1))
        best = []
        for lane in range(lanes):
            value = word[lane * bits : (lane + 1) * bits].as_signed()
            absent = (number == last_word) & (present <= lane) | hidden[lane]
            best.append(Mux(absent, lowest, value))
        largest, ended = largest_of_row(m, best, bits, Cat(
            valid & (number <= last_word), number == 0, valid & (number == last_word)))
        # Now step through the row once more.
        of_row = Signal(signed(bits), reset_less=True)
        busy = Signal(name="exp_busy")
        with m.If(ended):
            m.d.sync += [of_row.eq(largest), busy.eq(1)]
        step, row_end = counter(int(config.exp_cycles.max()), name="exp_step"), Signal(
            name="exp_end")
        rows = Rows(m, "exp", config.row_shape, row_end)
        last_word = rows.of_query(config.score_words - 1)
        present = rows.of_query(config.seen - (config.score_words - 1) * lanes)
        m.d.comb += row_end.eq(busy & (step == rows.of_query(config.exp_cycles - 1)))
        from_half = Signal(name="exp_half")
        with m.If(busy):
            m.d.sync += step.eq(Mux(row_end, 0, step + 1))
            with m.If(row_end):
                m.d.sync += [busy.eq(ended), from_half.eq(~from_half)]
        address = Signal.like(memory.read_addr)
        m.d.comb += [
            # Steps beyond the scores read anything, and count for nothing.
            address.eq(Mux(from_half, depth, 0) + step),
            memory.read_addr.eq(address), memory.read_en.eq(1), memory.load.eq(1),
        ]
        late = config.exp_latency
        live = delayed(m, Cat(
            busy & ((step < last_word) | ((step == last_word) & (present > lane)))
            for lane in range(lanes)), late - 1, "exp_live")
        if with_hidden:
            live &= ~delayed(m, memory.read_data[bits * lanes :], late - 3, "exp_hidden")
        # What depends on the head: the products are five cycles behind the steps.
        factor = rows.of_row(config.op.multipliers, 5)
        least_over = rows.of_row(config.exponentials.least_over, 3)
        lanes_out = [
            config.exponentials.lookup(
                m, lane, of_row, memory.read_data[lane * bits : (lane + 1) * bits].as_signed(),
                live[lane], factor, least_over)
            for lane in range(lanes)]
        marks = delayed(m, Cat(busy, row_end), late, "exp_marks")
        return lanes_out, marks

    def _sums(
        self, m: Module, values, lanes: list[Signal], marks: Value, reciprocal: Value, queue
    ) -> None:
        """Weighted sums of the values, times the row's reciprocal."""
        config = self.config
        pieces, words = config.exp_pieces, config.values.rows
        m.submodules.exp_memory = memory = BufferMemory(EXP_BITS * config.value_lanes, 2 * words)
        # Collect exponentials to words.
        word = Signal(EXP_BITS * config.value_lanes, reset_less=True)
        piece, write, write_en = counter(pieces, name="piece"), counter(
            2 * words, name="exp_write"), Signal()
        full = piece == pieces - 1
        half_end, half = Signal(name="exp_row_end"), Signal(name="exp_write_half")
        m.d.sync += [write_en.eq(marks[0] & full), half_end.eq(marks[1])]
        with m.If(marks[0]):
            m.d.sync += [word.eq(Cat(word, *lanes)[EXP_BITS * len(lanes):]),
                         piece.eq(Mux(full, 0, piece + 1))]
        with m.If(write_en):
            m.d.sync += write.eq(Mux(half_end, Mux(half, 0, words), write + 1))
        with m.If(half_end):
            m.d.sync += half.eq(~half)
        m.d.comb += [memory.write_en.eq(write_en), memory.write_addr.eq(write),
                     memory.write_data.eq(word), memory.read_en.eq(1), memory.load.eq(1)]
        # Begin when all are there.
        begin = delayed(m, marks[1], config.value_wait, "value_begin")
        busy, row_end = Signal(name="value_busy"), Signal(name="value_end")
        heads = HeadRows(m, "value", config.row_shape, config.values, config.value_folds, row_end)
        step, fold_end, fold, last_fold = nested(
            m, "value", busy, (int(config.value_fold_cycles.max()), config.value_folds),
            (heads.of_query(config.value_fold_cycles - 1), Const(config.value_folds - 1)))
        with m.If(begin):
            m.d.sync += busy.eq(1)
        with m.Elif(row_end):
            m.d.sync += busy.eq(0)
        freed = Signal(name="values_freed")
        m.d.sync += freed.eq(row_end & heads.last)
        m.d.comb += [row_end.eq(busy & fold_end & last_fold), values.free.eq(freed)]
        m.d.comb += [
            values.address.eq(token_address(
                m, "value", config.values, heads, busy, fold_end, fold)),
            memory.read_addr.eq(row_address(m, "exp", words, step, row_end)),
        ]
        # Lanes of values are packed channel by channel.
        bits = config.tensors[2].bits
        packed = Cat(
            values.words.word_select(token * config.value_pe + channel, bits)
            for channel in range(config.value_pe) for token in range(config.value_lanes))
        operands = Cat(Cat(memory.read_data.word_select(k, EXP_BITS), Const(0, 1))
                       for k in range(config.value_lanes))
        last_step = heads.of_query(config.exp_words - 1)
        live = busy & (step <= last_step)
        done, acc = multiplied(
            m, "value", config.value_array, Cat(live, step == 0, live & (step == last_step)),
            packed, operands, EXP_BITS + 1)
        done = done[-1]
        sums, valid = serialised(m, "value", done, acc, config.fold_beats)
        # The reciprocal of the row that the sums are of.
        row_first, row_fold = Signal(init=1), counter(config.value_folds, name="scaled_fold")
        scale = Signal(signed(len(reciprocal) + 1), reset_less=True)
        with m.If(done):
            last = row_fold == config.value_folds - 1
            m.d.sync += [row_fold.eq(Mux(last, 0, row_fold + 1)), row_first.eq(last)]
            with m.If(row_first):
                m.d.sync += scale.eq(reciprocal)
        late = config.scale_latency
        m.d.comb += queue.i.valid.eq(delayed(m, valid, late, "scaled"))
        acc_bits = config.value_array.acc_bits
        for lane in range(config.lanes):
            value = sums[lane * acc_bits : (lane + 1) * acc_bits].as_signed()
            wide, narrow = sorted((value, scale), key=len, reverse=True)
            product = config.device.product(m, wide, narrow, f"scaled_{lane}")
            m.submodules[f"round_{lane}"] = rounder = RoundShift(
                len(product), (config.op.shift,) * 2, config.op.output)
            m.d.comb += [rounder.i.eq(product), rounder.shift.eq(0), queue.i.p[lane].eq(rounder.o)]
