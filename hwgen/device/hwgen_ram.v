// Simple dual-port memory: one write port, one read port that keeps the old word when both meet,
// and an output register. Its contents at power-up do not matter. STYLE is "distributed", "block"
// or "ultra". For synthesis, memories of the last two are cut into parts of PART_DEPTH words, each
// of blocks side by side of PART_WIDTH bits (of LAST_WIDTH in the last part, if it is shorter), with
// an output register each, as blocks have it built in.

module hwgen_ram #(
    parameter WIDTH = 8,
    parameter DEPTH = 16,
    parameter ADDRESS = 4,
    parameter STYLE = "block",
    parameter PART_WIDTH = 9,
    parameter PART_DEPTH = 2048,
    parameter LAST_WIDTH = 9
) (
    input  wire               clk,
    input  wire               write_en,
    input  wire [ADDRESS-1:0] write_addr,
    input  wire [WIDTH-1:0]   write_data,
    input  wire               read_en,
    input  wire [ADDRESS-1:0] read_addr,
    input  wire               load,
    output wire [WIDTH-1:0]   read_data
);
`ifdef SYNTHESIS
    localparam CUT = 1;
`else
    localparam CUT = 0;
`endif
    generate
        if (CUT && STYLE != "distributed") begin : g_cut
            localparam PARTS = (DEPTH + PART_DEPTH - 1) / PART_DEPTH;
            localparam LOW = $clog2(PART_DEPTH);
            localparam HIGH = PARTS > 1 ? ADDRESS - LOW : 1;
            wire [HIGH-1:0] write_part, read_part;
            reg [HIGH-1:0] fetched_part, part;
            assign write_part = PARTS > 1 ? write_addr >> LOW : 0;
            assign read_part = PARTS > 1 ? read_addr >> LOW : 0;
            always @(posedge clk) begin
                if (read_en) fetched_part <= read_part;
                if (load) part <= fetched_part;
            end
            wire [WIDTH-1:0] outs [0:(1<<HIGH)-1];
            assign read_data = outs[part];
            genvar high, low;
            for (high = 0; high < (1 << HIGH); high = high + 1) begin : g_part
                if (high < PARTS) begin : g_used
                    localparam LEFT = DEPTH - high * PART_DEPTH;
                    // Two words at least: of one word tools would make a register.
                    localparam WORDS = LEFT >= PART_DEPTH ? PART_DEPTH : LEFT < 2 ? 2 : LEFT;
                    localparam BLOCK = LEFT < PART_DEPTH ? LAST_WIDTH : PART_WIDTH;
                    localparam BITS_ADDRESS = ADDRESS < LOW ? ADDRESS : LOW;
                    for (low = 0; low < WIDTH; low = low + BLOCK) begin : g_slice
                        localparam REST = WIDTH - low;
                        localparam BITS = REST < BLOCK ? REST : BLOCK;
                        reg [BITS-1:0] fetched, out;
                        if (STYLE == "ultra") begin : g_ultra
                            (* ram_style = "ultra" *) reg [BITS-1:0] words [0:WORDS-1];
                            always @(posedge clk) begin
                                if (write_en && write_part == high)
                                    words[write_addr[BITS_ADDRESS-1:0]] <= write_data[low +: BITS];
                                if (read_en) fetched <= words[read_addr[BITS_ADDRESS-1:0]];
                            end
                        end else begin : g_block
                            (* ram_style = "block" *) reg [BITS-1:0] words [0:WORDS-1];
                            always @(posedge clk) begin
                                if (write_en && write_part == high)
                                    words[write_addr[BITS_ADDRESS-1:0]] <= write_data[low +: BITS];
                                if (read_en) fetched <= words[read_addr[BITS_ADDRESS-1:0]];
                            end
                        end
                        always @(posedge clk) if (load) out <= fetched;
                        assign outs[high][low +: BITS] = out;
                    end
                end else begin : g_unused
                    assign outs[high] = {WIDTH{1'bx}};
                end
            end
        end else begin : g_whole
            (* ram_style = "distributed" *) reg [WIDTH-1:0] words [0:DEPTH-1];
            reg [WIDTH-1:0] fetched, out;
            always @(posedge clk) begin
                if (write_en) words[write_addr] <= write_data;
                if (read_en) fetched <= words[read_addr];
                if (load) out <= fetched;
            end
            assign read_data = out;
        end
    endgenerate

`ifdef HWGEN_MONITOR  // simulation only: the most words held, where each is read once (a queue)
    integer level = 0, peak = 0;
    always @(posedge clk) begin
        level <= level + {31'b0, write_en} - {31'b0, read_en};
        if (level > peak) peak <= level;
    end
    final $display("peak %m %0d", peak);
`endif
endmodule
