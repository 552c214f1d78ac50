/* Runs of an accelerator; see run.c. */

#ifndef ACCELERATOR_RUN_H
#define ACCELERATOR_RUN_H

#include <stdint.h>

#define ACCELERATOR_WRONG_BITSTREAM (-1)
#define ACCELERATOR_FAILED (-2)

/* An input or an output: registers of its address and stride, bytes of a frame, and from a frame to
   the next. */
struct accelerator_port {
    const char *name;
    uint32_t address, stride, frame_bytes, frame_stride;
};

/* Let the accelerator see what the processor wrote; and the other way round.  To be written for the
   platform. */
void accelerator_flush(uint64_t address, uint64_t bytes);
void accelerator_invalidate(uint64_t address, uint64_t bytes);

/* Check that it is this design, reset it, and tell it where weights.bin (rtl/weights.bin) and its
   off-chip memory (rtl/memory.bin) are; 0 where the build has none.  Returns 0 or
   ACCELERATOR_WRONG_BITSTREAM. */
int accelerator_begin(volatile uint32_t *registers, uint64_t weights, uint64_t memory);

/* Run frames and wait for the end.  addresses: where each input and then each output is, in the order
   of accelerator.h.  Returns 0, or ACCELERATOR_FAILED with the error register in errors; then the
   accelerator has been reset. */
int accelerator_run(volatile uint32_t *registers, uint32_t frames, const uint64_t *addresses,
                    uint32_t *errors);

#endif
