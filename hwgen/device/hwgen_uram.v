// Rows in UltraRAM, at most 4096, which are written once after reset and then only read. A row is
// COLUMNS words of 72 bits, each with a write enable; the highest may be cut short by WIDTH. Two
// columns of at most 2048 rows share an UltraRAM, one at each port. A row comes after two cycles,
// from an output register. Its contents while it is written do not matter.
// With HWGEN_PRELOAD (simulation only) they are there from the beginning, read from FILE.

module hwgen_uram #(
    parameter WIDTH = 72,
    parameter DEPTH = 16,
    parameter ADDRESS = 4,
    parameter COLUMNS = 1,
    parameter FILE = ""
) (
    input  wire               clk,
    input  wire [COLUMNS-1:0] write,
    input  wire [71:0]        write_data,
    input  wire [ADDRESS-1:0] address,
    output wire [WIDTH-1:0]   data,
    output wire               preloaded
);
`ifdef SYNTHESIS
    localparam SHARED = DEPTH <= 2048;
    wire [72*COLUMNS-1:0] row;
    wire [11:0] lower, upper;
    assign lower = address;
    assign upper = {1'b1, lower[10:0]};
    assign data = row[WIDTH-1:0];
    assign preloaded = 1'b0;
    genvar k;
    generate
        for (k = 0; k < COLUMNS; k = k + 1 + SHARED) begin : g_column
            // Both ports of a memory are in its own scope, as UG901 has it.
            if (SHARED && k + 1 < COLUMNS) begin : g_shared
                (* ram_style = "ultra" *) reg [71:0] words [0:4095];
                reg [71:0] fetched, out, upper_fetched, upper_out;
                always @(posedge clk) begin
                    if (write[k]) words[lower] <= write_data;
                    else fetched <= words[lower];
                    out <= fetched;
                end
                always @(posedge clk) begin
                    if (write[k+1]) words[upper] <= write_data;
                    else upper_fetched <= words[upper];
                    upper_out <= upper_fetched;
                end
                assign row[72*k +: 144] = {upper_out, out};
            end else begin : g_alone
                (* ram_style = "ultra" *) reg [71:0] words [0:4095];
                reg [71:0] fetched, out;
                always @(posedge clk) begin
                    if (write[k]) words[lower] <= write_data;
                    else fetched <= words[lower];
                    out <= fetched;
                end
                assign row[72*k +: 72] = out;
            end
        end
    endgenerate
`else
`ifdef HWGEN_PRELOAD
    localparam PRELOAD = 1;
`else
    localparam PRELOAD = 0;
`endif
    reg [72*COLUMNS-1:0] rows [0:DEPTH-1];
    reg [WIDTH-1:0] fetched, out;
    assign data = out;
    assign preloaded = PRELOAD;
    initial if (PRELOAD) $readmemh(FILE, rows);
    integer k;
    always @(posedge clk) begin
        if (write == 0) fetched <= rows[address][WIDTH-1:0];
        else for (k = 0; k < COLUMNS; k = k + 1)
            if (write[k]) rows[address][72*k +: 72] <= write_data;
        out <= fetched;
    end
`endif
endmodule
