// Simple dual-port memory: one write port, one read port with a registered output that keeps the
// old word when both meet. Its contents at power-up do not matter. STYLE is "block" or
// "distributed".

module hwgen_ram #(
    parameter WIDTH = 8,
    parameter DEPTH = 16,
    parameter ADDRESS = 4,
    parameter STYLE = "block"
) (
    input  wire               clk,
    input  wire               write_en,
    input  wire [ADDRESS-1:0] write_addr,
    input  wire [WIDTH-1:0]   write_data,
    input  wire               read_en,
    input  wire [ADDRESS-1:0] read_addr,
    output reg  [WIDTH-1:0]   read_data
);
    generate
        if (STYLE == "block") begin : g_block
            (* ram_style = "block" *) reg [WIDTH-1:0] words [0:DEPTH-1];
            always @(posedge clk) begin
                if (write_en) words[write_addr] <= write_data;
                if (read_en) read_data <= words[read_addr];
            end
        end else begin : g_distributed
            (* ram_style = "distributed" *) reg [WIDTH-1:0] words [0:DEPTH-1];
            always @(posedge clk) begin
                if (write_en) words[write_addr] <= write_data;
                if (read_en) read_data <= words[read_addr];
            end
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
