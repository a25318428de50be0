// Matrix products of bfloat16 rows with packed weights, summed in float32, see blocks.h.

#pragma once

#include "blocks.h"

// For each i of the two rows that `finish` gets, where it is one of `count`: written out, so that both stay in
// registers.
#define ROWS_OF_TWO(i, count)           \
  _Pragma("GCC unroll 2") for (int i = 0; i < 2; i++) \
    if (i < count)

alignas(64) static const float NOTHING[PANEL] = {};

// All rows times all panels, plus `bias`. `finish(row, column, sums, count)` gets those of one or two rows, two vectors
// each; the second is zero where fewer than 17 outputs are left. A block is finished before the next is summed: while
// tiles are multiplied half of the vector units are busy.
//
// a: read up to a multiple of 16 rows. depth: a multiple of 32. bias: whole groups, or null.
template <class Finish>
static INLINE void half_product(const Left& a, int rows, const half* w, int depth, int columns, const float* bias,
                                Finish finish) {
  alignas(64) float sums[BLOCK_ROWS * PANEL];
  // The next panel, asked for while this one is used: of every line a share in every step of every block.
  const int blocks = (rows + BLOCK_ROWS - 1) / BLOCK_ROWS, lines = (GROUP + blocks - 1) / blocks;
  for (int column = 0; column < columns; column += PANEL) {
    const int left = columns - column, width = left > LANES ? PANEL : LANES;
    const bool wide = left > LANES;
    const half* soon = w + (size_t)depth * width;
    for (int top = 0; top < rows; top += BLOCK_ROWS, soon += (size_t)lines * depth) {
      const int count = rows - top < BLOCK_ROWS ? rows - top : BLOCK_ROWS;
      block(a.below(top), count, w, depth, left, {bias ? bias + column : NOTHING, 0, sums, PANEL}, soon, lines);
      for (int r = 0; r < count; r += 2) {
        const float* from = sums + r * PANEL;
        Pair v[2] = {{load(from), wide ? load(from + LANES) : (vec){}},
                     {load(from + PANEL), wide ? load(from + PANEL + LANES) : (vec){}}};
        finish(top + r, column, v, count - r < 2 ? 1 : 2);
      }
    }
    w += (size_t)depth * width;
  }
}

// All rows times all panels, plus `sums.before`, into `sums.after`, nothing else done with them. Rows of both up to a
// multiple of BLOCK_ROWS, and columns up to a multiple of 16, are read and written.
static INLINE void plain_product(const Left& a, int rows, const half* w, int depth, int columns, const Sums& sums) {
  for (int column = 0; column < columns; column += PANEL) {
    const int left = columns - column;
    for (int top = 0; top < rows; top += BLOCK_ROWS) {
      const int count = rows - top < BLOCK_ROWS ? rows - top : BLOCK_ROWS;
      const float* before = sums.before + top * sums.before_row + column;
      float* after = sums.after + top * sums.after_row + column;
      block(a.below(top), count, w, depth, left, {before, sums.before_row, after, sums.after_row}, w, 0);
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
static INLINE void product_of_columns(const Left& a, int rows, const half* w, int depth, Columns share,
                                      const float* bias, Finish finish) {
  const int begin = share.begin;
  if (share.end > begin)
    half_product(a, rows, w + (size_t)begin * depth, depth, share.end - begin,
                 bias ? bias + begin : nullptr,
                 [=](int r, int c, Pair(&v)[2], int n) __attribute__((always_inline)) { finish(r, begin + c, v, n); });
}

