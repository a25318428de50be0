// Matrix products of bfloat16 rows with packed weights, summed in float32, see blocks.h.

#pragma once

#include "blocks.h"

// For each i of the two rows that `finish` gets, where it is one of `count`: written out, so that both stay in registers.
#define ROWS_OF_TWO(i, count)           \
  _Pragma("GCC unroll 2") for (int i = 0; i < 2; i++) \
    if (i < count)

// Rows whose sums are made before they are finished. While tiles are multiplied, half of the vector units are busy: the
// less often one follows the other, the better.
static const int TALL = 4 * BLOCK_ROWS;

alignas(64) static const float NOTHING[PANEL] = {};

// All rows times all panels, plus `bias`. `finish(row, column, sums, count)` gets those of one or two rows, two vectors
// each; the second is zero where fewer than 17 outputs are left.
//
// a: rows `stride` numbers apart, read up to a multiple of 16 of them. depth: a multiple of 32. bias: whole groups, or null.
template <class Finish>
static INLINE void half_product(const half* a, size_t stride, int rows, const half* w, int depth, int columns,
                                const float* bias, Finish finish) {
  alignas(64) float sums[TALL * PANEL];
  for (int column = 0; column < columns; column += PANEL) {
    const int left = columns - column;
    for (int top = 0; top < rows; top += TALL) {
      const int count = rows - top < TALL ? rows - top : TALL;
      for (int r = 0; r < count; r += BLOCK_ROWS)
        block(a + (top + r) * stride, stride, count - r < BLOCK_ROWS ? count - r : BLOCK_ROWS, w, depth, left,
              bias ? bias + column : NOTHING, sums + r * PANEL);
      for (int r = 0; r < count; r += 2) {
        const float* from = sums + r * PANEL;
        const bool wide = left > LANES;
        Pair v[2] = {{load(from), wide ? load(from + LANES) : (vec){}},
                     {load(from + PANEL), wide ? load(from + PANEL + LANES) : (vec){}}};
        finish(top + r, column, v, count - r < 2 ? 1 : 2);
      }
    }
    w += (size_t)depth * (left > LANES ? PANEL : LANES);
  }
}

// The share of a product's outputs that thread `number` of `count` takes: whole panels.
struct Columns {
  int begin, end;
};

static INLINE Columns columns_of(int columns, int number, int count) {
  const int panels = (columns + PANEL - 1) / PANEL, end = panels * (number + 1) / count * PANEL;
  return {panels * number / count * PANEL, end < columns ? end : columns};
}

// `half_product` for some of the outputs; `finish` gets columns of all.
template <class Finish>
static INLINE void product_of_columns(const half* a, size_t stride, int rows, const half* w, int depth, Columns share,
                                      const float* bias, Finish finish) {
  const int begin = share.begin;
  if (share.end > begin)
    half_product(a, stride, rows, w + (size_t)begin * depth, depth, share.end - begin,
                 bias ? bias + begin : nullptr,
                 [=](int r, int c, Pair(&v)[2], int n) __attribute__((always_inline)) { finish(r, begin + c, v, n); });
}

// Few tokens for several threads: they share the outputs, see ../product.h.
static const int FEW_TOKENS = 256;
