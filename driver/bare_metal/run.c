/* The register sequence of a run, without an operating system.

   accelerator.h comes from the build (python -m hwgen.build MODEL --board BOARD --shell).  Memory is
   what the processor and the accelerator both see; with a cache between them, accelerator_flush
   and accelerator_invalidate are what the platform has for that, such as Xil_DCacheFlushRange and
   Xil_DCacheInvalidateRange. */

#include "run.h"

#include "accelerator.h"

#ifndef ACCELERATOR_PORTS
#error "Frames of this build go as streams: build with --shell memory"
#endif

static const struct accelerator_port ports[] = ACCELERATOR_PORTS;

static uint32_t get(volatile uint32_t *registers, uint32_t offset) { return registers[offset / 4]; }

static void set(volatile uint32_t *registers, uint32_t offset, uint32_t value) {
    registers[offset / 4] = value;
}

static void set_address(volatile uint32_t *registers, uint32_t offset, uint64_t address) {
    set(registers, offset, (uint32_t)address);
    set(registers, offset + 4, (uint32_t)(address >> 32));
}

int accelerator_begin(volatile uint32_t *registers, uint64_t weights, uint64_t memory) {
    if (get(registers, ACCELERATOR_ID_LOW_REGISTER) != ACCELERATOR_ID_LOW ||
        get(registers, ACCELERATOR_ID_HIGH_REGISTER) != ACCELERATOR_ID_HIGH)
        return ACCELERATOR_WRONG_BITSTREAM;
    set(registers, ACCELERATOR_RESET_REGISTER, 1);
    while (get(registers, ACCELERATOR_RESET_REGISTER))
        ;
#if ACCELERATOR_WEIGHTS_BYTES
    accelerator_flush(weights, ACCELERATOR_WEIGHTS_BYTES);
    set_address(registers, ACCELERATOR_ARGUMENT_WEIGHTS, weights);
#else
    (void)weights;
#endif
#if ACCELERATOR_MEMORY_BYTES
    accelerator_flush(memory, ACCELERATOR_MEMORY_BYTES);
    set_address(registers, ACCELERATOR_ARGUMENT_MEMORY, memory);
#else
    (void)memory;
#endif
    return 0;
}

int accelerator_run(volatile uint32_t *registers, uint32_t frames, const uint64_t *addresses,
                    uint32_t *errors) {
    const int count = ACCELERATOR_INPUTS + ACCELERATOR_OUTPUTS;
    *errors = 0;
    set(registers, ACCELERATOR_ARGUMENT_FRAMES, frames);
    for (int k = 0; k < count; k++) {
        const uint64_t bytes = (uint64_t)frames * ports[k].frame_stride;
        set_address(registers, ports[k].address, addresses[k]);
        set(registers, ports[k].stride, 0);
        /* Outputs, too: no line of theirs may be written back later. */
        accelerator_flush(addresses[k], bytes);
    }
    set(registers, ACCELERATOR_CONTROL, ACCELERATOR_START);
    while (!(get(registers, ACCELERATOR_CONTROL) & ACCELERATOR_DONE)) {
        *errors = get(registers, ACCELERATOR_ERRORS_REGISTER);
        if (*errors) {
            set(registers, ACCELERATOR_RESET_REGISTER, 1);
            while (get(registers, ACCELERATOR_RESET_REGISTER))
                ;
            return ACCELERATOR_FAILED;
        }
    }
    for (int k = ACCELERATOR_INPUTS; k < count; k++)
        accelerator_invalidate(addresses[k], (uint64_t)frames * ports[k].frame_stride);
    return 0;
}
