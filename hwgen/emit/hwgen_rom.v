// Read-only memory with a registered output, filled from an image file.
// STYLE is "block" or "distributed".

module hwgen_rom #(
    parameter WIDTH = 8,
    parameter DEPTH = 16,
    parameter ADDRESS = 4,
    parameter STYLE = "block",
    parameter INIT = "image.hex"
) (
    input  wire               clk,
    input  wire               en,
    input  wire [ADDRESS-1:0] addr,
    output reg  [WIDTH-1:0]   data
);
    generate
        if (STYLE == "block") begin : g_block
            (* rom_style = "block" *) reg [WIDTH-1:0] image [0:DEPTH-1];
            initial $readmemh(INIT, image);
            always @(posedge clk) if (en) data <= image[addr];
        end else begin : g_distributed
            (* rom_style = "distributed" *) reg [WIDTH-1:0] image [0:DEPTH-1];
            initial $readmemh(INIT, image);
            always @(posedge clk) if (en) data <= image[addr];
        end
    endgenerate
endmodule
