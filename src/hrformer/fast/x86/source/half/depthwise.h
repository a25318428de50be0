// One row of a depthwise 3x3 convolution of bfloat16 maps, summed in float32.

#pragma once

#include "half.h"

// Output columns that are summed together, so that their inputs and the weights are loaded once for all.
static const int COLUMNS = 4;

// Columns at to at + COLUMNS of one group of channels. EDGE: some of their inputs, or they themselves, may lie outside.
template <int STRIDE, bool EDGE, class Finish>
static INLINE void depthwise_columns(const half* const* lines, int width, int step, int part, const float* weights,
                                     int weight_step, const float* bias, int at, int out_width, half* out, int out_step,
                                     Finish finish) {
  constexpr int INPUTS = (COLUMNS - 1) * STRIDE + 3;
  Pair sums[COLUMNS];
#pragma GCC unroll 4
  for (int j = 0; j < COLUMNS; j++) sums[j] = load_floats(bias);
  const int first = at * STRIDE - 1;
#pragma GCC unroll 3
  for (int i = 0; i < 3; i++) {
    if (!lines[i]) continue;
    const half* p = lines[i] + (ptrdiff_t)first * step;
    Pair taps[3];
#pragma GCC unroll 3
    for (int k = 0; k < 3; k++) taps[k] = load_floats(weights + (size_t)(3 * i + k) * weight_step);
#pragma GCC unroll 9
    for (int j = 0; j < INPUTS; j++) {
      const bool inside = !EDGE || (first + j >= 0 && first + j < width);
      if (!inside) continue;
      const Pair input = load_parted(p + (ptrdiff_t)j * step, part);
#pragma GCC unroll 3
      for (int k = 0; k < 3; k++)
        if (j >= k && (j - k) % STRIDE == 0 && (j - k) / STRIDE < COLUMNS) {
          sums[(j - k) / STRIDE].first += input.first * taps[k].first;
          sums[(j - k) / STRIDE].second += input.second * taps[k].second;
        }
    }
  }
#pragma GCC unroll 4
  for (int j = 0; j < COLUMNS; j += 2) {
    Pair both[2] = {sums[j], sums[j + 1]};
    finish(both);
#pragma GCC unroll 2
    for (int i = 0; i < 2; i++)
      if (!EDGE || at + j + i < out_width) store_halves(out + (size_t)(at + j + i) * out_step, both[i]);
  }
}

// lines: the three input rows of `width` cells of `channels` numbers, null beyond the picture. Channels begin to end,
// begin a multiple of GROUP, are summed.
// weights: (9, grouped channels); bias: (grouped channels); both, and what is written, have of every group the channels
// at even places first. out: ceil(width / STRIDE) cells of `out_step` numbers, at least the grouped channels.
template <int STRIDE, class Finish>
static INLINE void half_depthwise_row(const half* const* lines, int width, int channels, int begin, int end,
                                      int out_step, const float* weights, const float* bias, half* out,
                                      Finish finish) {
  const int weight_step = grouped(channels), out_width = (width + STRIDE - 1) / STRIDE;
  for (int at = 0; at < out_width; at += COLUMNS) {
    const bool edge = at == 0 || (at + COLUMNS - 1) * STRIDE + 1 >= width || at + COLUMNS > out_width;
    for (int c = begin; c < end; c += GROUP) {
      const half* from[3];
      for (int i = 0; i < 3; i++) from[i] = lines[i] ? lines[i] + c : nullptr;
      const int part = channels - c;
      if (edge)
        depthwise_columns<STRIDE, true>(from, width, channels, part, weights + c, weight_step, bias + c, at, out_width,
                                        out + c, out_step, finish);
      else if (part < GROUP)
        depthwise_columns<STRIDE, false>(from, width, channels, part, weights + c, weight_step, bias + c, at,
                                         out_width, out + c, out_step, finish);
      else
        depthwise_columns<STRIDE, false>(from, width, channels, GROUP, weights + c, weight_step, bias + c, at,
                                         out_width, out + c, out_step, finish);
    }
  }
}

// Channels to take at once, so that three rows of them stay in the first cache while the rows of a band are made.
static INLINE int half_depthwise_group(int width) {
  const long groups = 32768 / (3L * width * GROUP * (long)sizeof(half));
  return (int)(groups > 1 ? groups : 1) * GROUP;
}
