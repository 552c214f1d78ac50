// Read-only memory with a registered output, filled from an image file (hexadecimal, INIT).
// STYLE is "block" or "distributed".

module hwgen_rom #(
    parameter WIDTH = 8,
    parameter DEPTH = 16,
    parameter ADDRESS = 4,
    parameter STYLE = "block",
    parameter INIT = ""
) (
    input  wire               clk,
    input  wire               en,
    input  wire [ADDRESS-1:0] addr,
    output reg  [WIDTH-1:0]   data
);
    generate
        if (STYLE == "block") begin : g_block
            (* rom_style = "block" *) reg [WIDTH-1:0] image [0:DEPTH-1];
            initial if (INIT != "") $readmemh(INIT, image);
            always @(posedge clk) if (en) data <= image[addr];
        end else begin : g_distributed
`ifdef YOSYS  // calls a table in LUTs "logic"
            (* rom_style = "logic" *)
`else
            (* rom_style = "distributed" *)
`endif
            reg [WIDTH-1:0] image [0:DEPTH-1];
            initial if (INIT != "") $readmemh(INIT, image);
            always @(posedge clk) if (en) data <= image[addr];
        end
    endgenerate
endmodule
