// Rows of a depthwise 3x3 convolution of maps in bfloat16 or float32, summed in float32.

#pragma once

#include "half.h"

// Output columns that are summed together, so that their inputs and the weights are loaded once for all.
static const int COLUMNS = 4;

// The rows of a map that a convolution reads, null beyond the picture, and of a group of their channels those inside
// the map. Cells are `step` numbers apart.
template <int COUNT, class Number> struct Lines {
  const Number* at[COUNT];
  int width, step, part;
};

// Weights of a group of channels: nine taps, `step` floats apart, and the bias. Where the map is bfloat16, the channels
// at even places come first, of both and of what is written.
struct Taps {
  const float *weights, *bias;
  int step;
};

static INLINE Pair load_cell(const half* p, int part) { return load_parted(p, part); }
static INLINE Pair load_cell(const float* p, int) { return load_floats(p); }

// ROWS rows of outputs, columns at to at + COLUMNS; cells and rows of the outputs are `step` and `line` apart. EDGE:
// some of the inputs, or outputs, may lie outside. With two rows, each input is loaded once for both.
template <int ROWS, int STRIDE, bool EDGE, class Number, class Finish>
static INLINE void depthwise_columns(const Lines<ROWS + 2, Number>& in, const Taps& taps, int at, int out_width,
                                     half* out, size_t step, size_t line, Finish finish) {
  static_assert(ROWS == 1 || STRIDE == 1, "rows of a wider stride share less");
  constexpr int INPUTS = (COLUMNS - 1) * STRIDE + 3;
  Pair sums[ROWS][COLUMNS];
#pragma GCC unroll 2
  for (int r = 0; r < ROWS; r++)
#pragma GCC unroll 4
    for (int j = 0; j < COLUMNS; j++) sums[r][j] = load_floats(taps.bias);
  const int first = at * STRIDE - 1;
#pragma GCC unroll 4
  for (int i = 0; i < ROWS + 2; i++) {
    if (!in.at[i]) continue;
    const Number* p = in.at[i] + (ptrdiff_t)first * in.step;
#pragma GCC unroll 9
    for (int j = 0; j < INPUTS; j++) {
      const bool inside = !EDGE || (first + j >= 0 && first + j < in.width);
      if (!inside) continue;
      const Pair input = load_cell(p + (ptrdiff_t)j * in.step, in.part);
#pragma GCC unroll 2
      for (int r = 0; r < ROWS; r++)
#pragma GCC unroll 3
        for (int k = 0; k < 3; k++)
          if (i >= r && i - r < 3 && j >= k && (j - k) % STRIDE == 0 && (j - k) / STRIDE < COLUMNS) {
            const Pair tap = load_floats(taps.weights + (size_t)(3 * (i - r) + k) * taps.step);
            Pair& sum = sums[r][(j - k) / STRIDE];
            sum.first += input.first * tap.first;
            sum.second += input.second * tap.second;
          }
    }
  }
#pragma GCC unroll 2
  for (int r = 0; r < ROWS; r++)
#pragma GCC unroll 4
    for (int j = 0; j < COLUMNS; j += 2) {
      Pair both[2] = {sums[r][j], sums[r][j + 1]};
      finish(both);
#pragma GCC unroll 2
      for (int i = 0; i < 2; i++)
        if (!EDGE || at + j + i < out_width) store_halves(out + r * line + (size_t)(at + j + i) * step, both[i]);
    }
}

// One group of channels of ROWS rows: ceil(width / STRIDE) cells of each.
template <int ROWS, int STRIDE, class Number, class Finish>
static INLINE void half_depthwise_rows(const Lines<ROWS + 2, Number>& in, const Taps& taps, half* out, size_t step,
                                       size_t line, Finish finish) {
  const int out_width = (in.width + STRIDE - 1) / STRIDE;
  for (int at = 0; at < out_width; at += COLUMNS) {
    if (at == 0 || (at + COLUMNS - 1) * STRIDE + 1 >= in.width || at + COLUMNS > out_width)
      depthwise_columns<ROWS, STRIDE, true>(in, taps, at, out_width, out, step, line, finish);
    else
      depthwise_columns<ROWS, STRIDE, false>(in, taps, at, out_width, out, step, line, finish);
  }
}
