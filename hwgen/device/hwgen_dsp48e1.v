// One DSP48E1 of a cascade: p = a * b + pcin, three cycles after a and b (four if LATE), one after
// pcin. FIRST: pcin counts as 0. Synthesis takes the primitive, simulation its meaning.

module hwgen_dsp48e1 #(
    parameter LATE = 0,
    parameter FIRST = 0
) (
    input  wire               clk,
    input  wire signed [24:0] a,
    input  wire signed [17:0] b,
    input  wire signed [47:0] pcin,
    output wire signed [47:0] pcout,
    output wire signed [47:0] p
);
`ifdef SYNTHESIS
    DSP48E1 #(
        .A_INPUT("DIRECT"), .B_INPUT("DIRECT"), .USE_DPORT("FALSE"), .USE_MULT("MULTIPLY"),
        .USE_SIMD("ONE48"), .USE_PATTERN_DETECT("NO_PATDET"),
        .AREG(1 + LATE), .ACASCREG(1 + LATE), .BREG(1 + LATE), .BCASCREG(1 + LATE),
        .CREG(0), .DREG(0), .ADREG(0), .MREG(1), .PREG(1), .ALUMODEREG(0), .CARRYINREG(0),
        .CARRYINSELREG(0), .INMODEREG(0), .OPMODEREG(0)
    ) dsp (
        .CLK(clk), .A({{5{a[24]}}, a}), .B(b), .C(48'b0), .D(25'b0), .PCIN(pcin),
        .PCOUT(pcout), .P(p),
        // M + 0, or M + PCIN: the multiplier on X and Y, nothing or the cascade on Z.
        .OPMODE(FIRST ? 7'h05 : 7'h15), .ALUMODE(4'b0), .INMODE(5'b0),
        .CARRYIN(1'b0), .CARRYINSEL(3'b0), .ACIN(30'b0), .BCIN(18'b0), .CARRYCASCIN(1'b0),
        .MULTSIGNIN(1'b0),
        .CEA1(LATE != 0), .CEA2(1'b1), .CEB1(LATE != 0), .CEB2(1'b1), .CEC(1'b0), .CED(1'b0),
        .CEAD(1'b0), .CEM(1'b1), .CEP(1'b1), .CEALUMODE(1'b0), .CECARRYIN(1'b0), .CECTRL(1'b0),
        .CEINMODE(1'b0),
        .RSTA(1'b0), .RSTB(1'b0), .RSTC(1'b0), .RSTD(1'b0), .RSTM(1'b0), .RSTP(1'b0),
        .RSTALLCARRYIN(1'b0), .RSTALUMODE(1'b0), .RSTCTRL(1'b0), .RSTINMODE(1'b0),
        .ACOUT(), .BCOUT(), .CARRYCASCOUT(), .CARRYOUT(), .MULTSIGNOUT(), .OVERFLOW(),
        .UNDERFLOW(), .PATTERNDETECT(), .PATTERNBDETECT()
    );
`else
    reg signed [24:0] a_0 = 0, a_1 = 0;
    reg signed [17:0] b_0 = 0, b_1 = 0;
    reg signed [42:0] product = 0;
    reg signed [47:0] total = 0;
    always @(posedge clk) begin
        a_0 <= a;
        b_0 <= b;
        if (LATE != 0) begin
            a_1 <= a_0;
            b_1 <= b_0;
            product <= a_1 * b_1;
        end else product <= a_0 * b_0;
        if (FIRST != 0) total <= {{5{product[42]}}, product};
        else total <= {{5{product[42]}}, product} + pcin;
    end
    assign p = total;
    assign pcout = total;
`endif
endmodule
