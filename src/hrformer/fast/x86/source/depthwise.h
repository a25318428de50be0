// One row of a depthwise 3x3 convolution.

#pragma once

#include "vectors.h"

// Output columns that are summed together, so that their inputs and the weights are loaded once for all.
static const int COLUMNS = 4;

// Columns at to at + COLUMNS of one vector of channels. EDGE: some of their inputs, or they themselves, may lie outside.
// WHOLE: all lanes are channels, else the first `part`.
template <int STRIDE, bool EDGE, bool WHOLE, class Finish>
static INLINE void depthwise_columns(const float* const* lines, int width, int step, int part, const float* weights,
                                     int weight_step, vec bias, int at, int out_width, float* out, int out_step,
                                     Finish finish) {
  constexpr int INPUTS = (COLUMNS - 1) * STRIDE + 3;
  vec sums[COLUMNS];
#pragma GCC unroll 4
  for (int j = 0; j < COLUMNS; j++) sums[j] = bias;
  const int first = at * STRIDE - 1;
#pragma GCC unroll 3
  for (int i = 0; i < 3; i++) {
    if (!lines[i]) continue;
    const float* p = lines[i] + (ptrdiff_t)first * step;
    vec inputs[INPUTS], taps[3];
#pragma GCC unroll 9
    for (int j = 0; j < INPUTS; j++) {
      const bool inside = !EDGE || (first + j >= 0 && first + j < width);
      inputs[j] = !inside ? (vec){} : WHOLE ? load(p + (ptrdiff_t)j * step) : load_part(p + (ptrdiff_t)j * step, part);
    }
#pragma GCC unroll 3
    for (int k = 0; k < 3; k++) taps[k] = load(weights + (size_t)(3 * i + k) * weight_step);
#pragma GCC unroll 4
    for (int j = 0; j < COLUMNS; j++)
#pragma GCC unroll 3
      for (int k = 0; k < 3; k++) sums[j] += inputs[j * STRIDE + k] * taps[k];
  }
#pragma GCC unroll 4
  for (int j = 0; j < COLUMNS; j++)
    if (!EDGE || at + j < out_width) store(out + (size_t)(at + j) * out_step, finish(sums[j]));
}

// lines: the three input rows of `width` cells of `channels` floats, null beyond the picture. Channels begin to end,
// begin a multiple of LANES, are summed.
// weights: (9, filled channels); bias: (filled channels). out: ceil(width / STRIDE) cells of `out_step` floats, at
// least the filled channels. `finish` is applied to the sums.
template <int STRIDE, class Finish>
static INLINE void depthwise_row(const float* const* lines, int width, int channels, int begin, int end, int out_step,
                                 const float* weights, const float* bias, float* out, Finish finish) {
  const int weight_step = filled(channels), out_width = (width + STRIDE - 1) / STRIDE;
  for (int at = 0; at < out_width; at += COLUMNS) {
    const bool edge = at == 0 || (at + COLUMNS - 1) * STRIDE + 1 >= width || at + COLUMNS > out_width;
    for (int c = begin; c < end; c += LANES) {
      const float* from[3];
      for (int i = 0; i < 3; i++) from[i] = lines[i] ? lines[i] + c : nullptr;
      const vec first = load(bias + c);
      const int part = channels - c;
      auto sum = [&](auto columns) __attribute__((always_inline)) {
        columns(from, width, channels, part, weights + c, weight_step, first, at, out_width, out + c, out_step, finish);
      };
      if (edge)
        sum(depthwise_columns<STRIDE, true, false, Finish>);
      else if (part < LANES)
        sum(depthwise_columns<STRIDE, false, false, Finish>);
      else
        sum(depthwise_columns<STRIDE, false, true, Finish>);
    }
  }
}

// Channels to take at once, so that three rows of them stay in the first cache while the rows of a band are made.
static INLINE int depthwise_group(int width) {
  const long vectors = 32768 / (3L * width * LANES * (long)sizeof(float));
  return (int)(vectors > 1 ? vectors : 1) * LANES;
}
